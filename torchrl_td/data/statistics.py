"""What a dataset holds: numbers for a table, and what looks wrong about it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase

SATURATED = 1e-3
"""An action counts as saturated within this share of its range from a bound."""

# D4RL's reference returns (minimum, maximum), by the beginning of a dataset's name.
D4RL_REFERENCES: dict[str, tuple[float, float]] = {
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
    "maze2d-umaze": (23.85, 161.86),
    "maze2d-medium": (13.13, 277.39),
    "maze2d-large": (6.7, 273.99),
    "pen": (96.262799, 3076.833102),
    "hammer": (-274.856578, 12794.134825),
    "door": (-56.512833, 2880.569309),
    "relocate": (-6.425911, 4233.877798),
    "kitchen": (0.0, 4.0),
    "antmaze": (0.0, 1.0),
}


@dataclass(frozen=True)
class SourceInfo:
    """What is known of a dataset beside its steps."""

    environment: str | None = None
    """Gymnasium id of the environment it was recorded in."""
    action_low: tuple[float, ...] | None = None
    """Lower bound of each action."""
    action_high: tuple[float, ...] | None = None
    """Upper bound of each action."""
    ref_min_score: float | None = None
    """Return that scores 0."""
    ref_max_score: float | None = None
    """Return that scores 100."""


def source_info(source: str) -> SourceInfo:
    """Environment, bounds and score references of a named source, as far as they are known.

    Args:
        source: as for :func:`torchrl_td.data.load_episodes`; a Minari dataset has to be
            there already.

    >>> source_info("d4rl:hopper-medium-v2").ref_max_score
    3234.3
    """
    kind, _, name = source.partition(":")
    if kind == "minari":
        return _minari_info(name)
    if kind == "d4rl":
        # What a path's last part begins with tells the task; D4RL's actions are in [-1, 1].
        stem = re.split(r"[/\\]", name)[-1].lower().replace("_", "-")
        for prefix, (low, high) in D4RL_REFERENCES.items():
            if stem.startswith(prefix):
                return SourceInfo(ref_min_score=low, ref_max_score=high)
    return SourceInfo()


def _minari_info(dataset_id: str) -> SourceInfo:
    """The same from a local Minari dataset's own metadata."""
    import minari

    dataset = minari.load_dataset(dataset_id)
    metadata: dict[str, Any] = dataset.storage.metadata
    space = dataset.action_space
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    references = [metadata.get(key) for key in ("ref_min_score", "ref_max_score")]
    return SourceInfo(
        environment=None if dataset.env_spec is None else dataset.env_spec.id,
        action_low=None if low is None else tuple(np.ravel(low).tolist()),
        action_high=None if high is None else tuple(np.ravel(high).tolist()),
        ref_min_score=None if references[0] is None else float(references[0]),
        ref_max_score=None if references[1] is None else float(references[1]),
    )


def episode_returns(episodes: TensorDictBase) -> tuple[torch.Tensor, torch.Tensor]:
    """Return and length of every episode.

    Args:
        episodes: in the layout of :func:`torchrl_td.data.load_episodes`.

    Returns:
        Undiscounted returns [E] float64, NaN or Inf where one of the episode's rewards is, and
        lengths [E] int64.
    """
    number = episodes["episode"].reshape(-1)  # [N]
    lengths = torch.bincount(number)  # [E]
    reward = episodes["next", "reward"].reshape(-1).double()
    return reward.new_zeros(len(lengths)).index_add_(0, number, reward), lengths


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
    info = info or SourceInfo()
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
    """A return to ask for: that of the data's best hundredth, to two digits.

    >>> suggested_target_return(torch.linspace(0, 3222, 1000))
    3200.0
    """
    value = float(torch.quantile(returns.double(), 0.99))
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
