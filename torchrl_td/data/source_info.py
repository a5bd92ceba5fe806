"""Metadata of a dataset: environment, action bounds, reference scores."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchrl_td.data.sources.d4rl import first_that_fits
from torchrl_td.data.sources.minari_metadata import dataset_metadata

# D4RL's reference returns (minimum, maximum), by the first words of a dataset's name.
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


_LONGEST = 1_000_000_000  # steps of an episode


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
    environment_kwargs: Mapping[str, Any] | None = None
    """What the environment was made with."""
    max_episode_steps: int | None = None
    """Its step limit."""
    exact_goal: bool = False
    """Whether it was recorded with ``task.exact_goal``, with a goal that the data does not tell."""


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
        low, high = first_that_fits(name, D4RL_REFERENCES) or (None, None)
        return SourceInfo(ref_min_score=low, ref_max_score=high)
    return SourceInfo()


def _minari_info(dataset_id: str) -> SourceInfo:
    """The same from a local Minari dataset's own metadata."""
    metadata = dataset_metadata(dataset_id)
    space = json.loads(metadata["action_space"])
    spec: Any = None
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        spec = json.loads(metadata.get("env_spec") or "{}")
    spec = spec if isinstance(spec, Mapping) else {}
    name, limit = spec.get("id"), spec.get("max_episode_steps")
    return SourceInfo(
        environment=name if isinstance(name, str) else None,
        action_low=_bound(space, "low"),
        action_high=_bound(space, "high"),
        ref_min_score=_number(metadata.get("ref_min_score")),
        ref_max_score=_number(metadata.get("ref_max_score")),
        environment_kwargs=_plain(spec.get("kwargs")),
        exact_goal="ExactGoal" in str(spec.get("additional_wrappers")),
        max_episode_steps=limit if type(limit) is int and 0 < limit < _LONGEST else None,
    )


def _plain(kwargs: Any) -> Mapping[str, Any] | None:
    """An environment's arguments without what is no plain setting, as a pickle or an interpolation.

    None where there are none.
    """
    if not isinstance(kwargs, Mapping):
        return None
    named = {k: v for k, v in kwargs.items() if k != "render_mode" and "${" not in k}
    plain = {k: v for k, v in named.items() if _is_plain(v)}
    return plain or None


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(k) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, str):
        return "${" not in value
    return value is None or isinstance(value, (bool, int, float))


def _bound(space: Any, key: str) -> tuple[float, ...] | None:
    """A bound of each action, of a space as Minari writes it."""
    if not isinstance(space, Mapping) or space.get("type") != "Box":
        return None
    try:
        bound = np.broadcast_to(np.asarray(space[key], dtype=np.float64), space["shape"])
    except (KeyError, ValueError, TypeError):  # no bounds, or not of its own shape
        return None
    return tuple(bound.ravel().tolist())


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
