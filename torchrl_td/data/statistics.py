"""Statistics of a dataset for a table, and warnings of what looks wrong."""

from __future__ import annotations

import math
from typing import Any

import torch
from tensordict import TensorDictBase

from torchrl_td.data.choices import with_float_actions
from torchrl_td.data.source_info import SourceInfo
from torchrl_td.data.validation import broken_successors, unlikely_ends

SATURATED = 1e-3
"""An action counts as saturated within this share of its range from a bound."""


def episode_returns(episodes: TensorDictBase) -> tuple[torch.Tensor, torch.Tensor]:
    """Return and length of every episode.

    Args:
        episodes: in the layout of :func:`torchrl_td.data.load_episodes`.

    Returns:
        Undiscounted returns [E] float64, NaN or Inf where one of the episode's rewards is, and
        lengths [E] int64.
    """
    returns, number = numbered_returns(episodes)
    return returns, torch.bincount(number)


def numbered_returns(episodes: TensorDictBase) -> tuple[torch.Tensor, torch.Tensor]:
    """The returns [E] of the episodes that are there, and which of them each step [N] is of.

    Where some were taken out, as for validation, their numbers have gaps.
    """
    _, number = episodes["episode"].reshape(-1).unique(return_inverse=True)
    reward = episodes["next", "reward"].reshape(-1).double()
    return reward.new_zeros(int(number.max()) + 1).index_add_(0, number, reward), number


def describe(episodes: TensorDictBase, info: SourceInfo | None = None) -> dict[str, Any]:
    """Numbers that say what a dataset holds, over what is finite in it.

    Args:
        episodes: in the layout of :func:`torchrl_td.data.load_episodes`.
        info: environment, bounds and references, where they are known.

    Returns:
        Plain numbers and lists, ready for JSON: ``transitions``, ``episodes``,
        ``length`` and ``return`` (mean, std, min, max), ``score`` (the return,
        normalised to 0–100, where references are known), ``observation`` and
        ``action`` (low and high of each dimension), ``reward``, ``terminations``,
        ``truncations``, ``saturated_actions`` (share of all action entries),
        ``suggested_target_return``, ``suggested_returns_scale``, ``environment``. What
        nothing finite tells is None.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> from torchrl_td.data import load_episodes
    >>> state = torch.rand(7, 3)
    >>> data = load_episodes(TensorDict({
    ...     "observation": state[:-1], "action": torch.rand(6, 2),
    ...     "next": {
    ...         "observation": state[1:], "reward": torch.ones(6, 1),
    ...         "terminated": torch.tensor([[0], [0], [0], [1], [0], [1]]).bool(),
    ...     },
    ... }, batch_size=[6]))
    >>> describe(data)["return"]
    {'mean': 3.0, 'std': 1.0, 'min': 2.0, 'max': 4.0}
    """
    info, episodes = info or SourceInfo(), with_float_actions(episodes)
    returns, lengths = episode_returns(episodes)
    returns = finite_entries(returns)
    score = None
    if info.ref_min_score is not None and info.ref_max_score is not None:
        span = info.ref_max_score - info.ref_min_score
        score = _spread(100 * (returns - info.ref_min_score) / span)
    return {
        "environment": info.environment,
        "transitions": episodes.batch_size[0],
        "episodes": len(lengths),
        "length": _spread(lengths.double()),
        "return": _spread(returns),
        "score": score,
        "reward": _spread(episodes["next", "reward"].double()),
        "observation": _range(episodes["observation"]),
        "action": _range(episodes["action"]),
        "terminations": int(episodes["next", "terminated"].sum()),
        "truncations": int(episodes["next", "truncated"].sum()),
        "saturated_actions": saturated_share(episodes["action"], info),
        "suggested_target_return": suggested_target_return(returns) if len(returns) else None,
        "suggested_returns_scale": (
            suggested_returns_scale(float(returns.abs().max())) if len(returns) else None
        ),
    }


def suggested_target_return(returns: torch.Tensor) -> float:
    """A return to ask for: that of the data's best twentieth, to two digits.

    >>> suggested_target_return(torch.linspace(0, 3222, 1000))
    3100.0
    """
    value = float(torch.quantile(returns.double(), 0.95))
    if value == 0:
        return 0.0
    digits = 1 - math.floor(math.log10(abs(value)))
    return round(value, digits)


def suggested_returns_scale(largest: float) -> float:
    """The 1, 2 or 5 times a power of ten that brings the largest return to between 1 and 4.

    >>> suggested_returns_scale(3222.0), suggested_returns_scale(161.0)
    (1000.0, 100.0)
    """
    if largest == 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    leading = largest / power  # in [1, 10)
    return power * (1 if leading < 4 else 2 if leading < 8 else 5)


def saturated_share(action: torch.Tensor, info: SourceInfo) -> float:
    """Share of the finite entries of ``action`` [N, A] at a bound; unknown ones are -1 and 1."""
    low, high = action_bounds(action, info)
    slack = SATURATED * (high - low)
    saturated = (action <= low + slack) | (action >= high - slack)
    finite = torch.isfinite(action)
    return float((saturated & finite).sum() / finite.sum().clamp(min=1))


def action_bounds(action: torch.Tensor, info: SourceInfo) -> tuple[torch.Tensor, torch.Tensor]:
    """Lower and upper bound of each action [A]; -1 and 1 where they are not known."""
    if info.action_low is None or info.action_high is None:
        ones = torch.ones_like(action[0])
        return -ones, ones
    return action.new_tensor(info.action_low), action.new_tensor(info.action_high)


def finite_entries(values: torch.Tensor) -> torch.Tensor:
    """The finite ones of all entries of ``values``, in one row."""
    return values[torch.isfinite(values)]


def _spread(values: torch.Tensor) -> dict[str, float] | None:
    """Mean, standard deviation, minimum and maximum of the finite ones as plain numbers."""
    values = finite_entries(values)
    if not len(values):
        return None
    return {
        "mean": float(values.mean()),
        "std": float(values.std(correction=0)),
        "min": float(values.min()),
        "max": float(values.max()),
    }


def extremes(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Low and high [D] of ``values`` [N, D]; inf and -inf where a dimension has none finite."""
    finite = torch.isfinite(values)
    return values.where(finite, math.inf).amin(0), values.where(finite, -math.inf).amax(0)


def _range(values: torch.Tensor) -> dict[str, list[float | None]]:
    """Low and high of each dimension of ``values`` [N, D]."""
    low, high = (
        [x if math.isfinite(x) else None for x in bound.tolist()] for bound in extremes(values)
    )
    return {"low": low, "high": high}


def quality_warnings(episodes: TensorDictBase, info: SourceInfo | None = None) -> list[str]:
    """What looks wrong, one sentence each; empty where nothing does.

    Args:
        episodes: in the layout of :func:`torchrl_td.data.load_episodes`.
        info: with the bounds of the actions, where they are known.
    """
    info, episodes = info or SourceInfo(), with_float_actions(episodes)
    returns, lengths = episode_returns(episodes)
    returns = finite_entries(returns)
    found = _not_finite(episodes)
    for key in ("observation", "action"):
        found += _odd_dimensions(episodes[key], key)
    low, high = action_bounds(episodes["action"], info)
    outside = ((episodes["action"] < low) | (episodes["action"] > high)).any(-1)
    if outside.any():
        bounds = "the environment's bounds" if info.action_low is not None else "[-1, 1]"
        found.append(
            f"{100 * float(outside.float().mean()):.3g} % of the actions lie outside {bounds}, "
            f"first in row {int(torch.nonzero(outside)[0])}"
        )
    if len(lengths) == 1:
        found.append("there is one episode only: its end may not have been recorded")
    elif len(returns) and float(returns.max()) == float(returns.min()):
        found.append("all returns are equal: there is nothing for the target return to choose")
    if not episodes["next", "reward"].any():
        found.append("all rewards are zero")
    broken = broken_successors(episodes)
    found += [broken] if broken else unlikely_ends(episodes)
    short = int((lengths == 1).sum())
    if short and not any("have a single step" in line for line in found):
        found.append(f"{short} of {len(lengths)} episodes have a single step")
    return found


def _not_finite(episodes: TensorDictBase) -> list[str]:
    """Where NaN or Inf stands, a sentence a key."""
    found: list[str] = []
    keys: dict[str, Any] = {
        "observation": "observation",
        "next/observation": ("next", "observation"),
        "action": "action",
        "reward": ("next", "reward"),
    }
    if torch.isfinite(episodes["next", "reward"]).all():  # else they are not, for that reason
        keys["returns_to_go"] = "returns_to_go"
    for name, key in keys.items():
        wrong = ~torch.isfinite(episodes[key])  # [N, D]
        rows = torch.nonzero(wrong.any(-1)).flatten()
        if len(rows):
            row = int(rows[0])
            which = torch.nonzero(wrong.any(0)).flatten().tolist()
            where = f", in dimension {_listed(which)}" if wrong.shape[-1] > 1 else ""
            found.append(
                f"{name} holds NaN or Inf in {len(rows):,} of {len(wrong):,} steps, first in row "
                f"{row} (episode {int(episodes['episode'][row])}){where}: it cannot be trained on; "
                "drop or mend those episodes"
            )
    return found


def _odd_dimensions(value: torch.Tensor, key: str) -> list[str]:
    """Dimensions of ``value`` [N, D] that never change, or are another's copy."""
    found = []
    low, high = extremes(value)
    constant = (low == high).tolist()
    dimensions = [d for d, flag in enumerate(constant) if flag]
    if dimensions:
        found.append(f"{key} is constant in dimension {_listed(dimensions)}")
    copies = []
    changing = [d for d, flag in enumerate(constant) if not flag]
    first_of: dict[tuple[float, ...], list[int]] = {}
    probe = value[:: max(1, len(value) // 64)]  # rows that tell most pairs apart cheaply
    for d in changing:
        alike = first_of.setdefault(tuple(probe[:, d].tolist()), [])
        twin = next((e for e in alike if torch.equal(value[:, d], value[:, e])), None)
        if twin is None:
            alike.append(d)
        else:
            copies.append(f"{d} (of {twin})")
    if copies:
        found.append(f"{key} repeats itself in dimension {_listed(copies)}")
    return found


def _listed(items: list[Any]) -> str:
    return ", ".join(str(item) for item in items)
