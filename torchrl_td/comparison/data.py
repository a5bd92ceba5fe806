"""The mazes' data at the size that a comparison takes, recorded where it is missing."""

from __future__ import annotations

from typing import Any

import minari

from torchrl_td.advice import command
from torchrl_td.data.mazes.maze2d import ensure_maze2d
from torchrl_td.data.mazes.pointmaze import ensure_pointmaze
from torchrl_td.errors import InputError

# Transitions, about D4RL's: 200,000 of medium hold 13 episodes to the goal that is played.
STEPS = {"umaze": 1_000_000, "medium": 2_000_000, "large": 4_000_000}
_RECORDED = {"pointmaze": ensure_pointmaze, "maze2d": ensure_maze2d}


def ensure_recorded(source: str) -> None:
    """Records ``minari:pointmaze/...`` and ``minari:maze2d/...`` at full size if missing.

    Raises:
        InputError: the dataset is there, but smaller.
    """
    space, _, name = source.removeprefix("minari:").partition("/")
    size = name.removesuffix("-v0")
    if space not in _RECORDED or size not in STEPS:
        return
    record: Any = _RECORDED[space]
    dataset_id = record(size, steps=STEPS[size])
    found = int(minari.load_dataset(dataset_id).total_steps)
    if found < STEPS[size]:
        raise InputError(
            f"{source} holds {found} transitions, a comparison takes {STEPS[size]}: "
            f"{command('td-data')} record {space}/{size} --steps {STEPS[size]} --overwrite, or "
            f"name the data with dataset.source="
        )
