"""What looks wrong about a dataset."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase

from torchrl_td.data.statistics import (
    SourceInfo,
    action_bounds,
    episode_returns,
    extremes,
    finite_entries,
)
from torchrl_td.data.validation import broken_successors


def suspicions(episodes: TensorDictBase, info: SourceInfo | None = None) -> list[str]:
    """What looks wrong, one sentence each; empty where nothing does.

    Args:
        episodes: in the layout of :func:`torchrl_td.data.load_episodes`.
        info: with the bounds of the actions, where they are known.
    """
    info = info or SourceInfo()
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
    found += [broken] if broken else []
    short = int((lengths == 1).sum())
    if short:
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
