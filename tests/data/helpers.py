"""Spaces, files and comparisons that several tests of the data column use."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import torch
from tensordict import TensorDict

BOX = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
GOAL = gymnasium.spaces.Dict(
    {
        "observation": gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64),
        "achieved_goal": gymnasium.spaces.Dict({"b": BOX, "a": BOX}),
        "desired_goal": gymnasium.spaces.Dict({"b": BOX, "a": BOX}),
    }
)
SAMPLE = Path(__file__).parent / "d4rl" / "door-v0_demos_sample.hdf5"

Check = Callable[[TensorDict, list[dict[str, Any]], list[np.ndarray]], None]
WriteMinari = Callable[..., list[dict[str, Any]]]


def main_file(dataset_id: str = "made/plain-v0") -> Path:
    """Where Minari keeps a dataset's numbers."""
    return Path(minari.storage.get_dataset_path(dataset_id)) / "data" / "main_data.hdf5"


def same(a: TensorDict, b: TensorDict) -> bool:
    """Whether both hold the same entries, bit for bit."""
    return set(a.keys(True, True)) == set(b.keys(True, True)) and all(
        torch.equal(a[key], b[key]) for key in a.keys(True, True)
    )


def forked(function: Callable[[], object]) -> int:
    """Run a function in a process of its own, which shares what is imported; its exit status.

    It is 0 where the function returned, minus the signal where one ended it.
    """
    child = os.fork()
    if child == 0:
        gc.freeze()  # collecting what waits for threads of its own, left behind, would crash
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ends_soon(process: int) -> bool:
    """Whether a process, of that id, ends within ten seconds."""
    stat = Path(f"/proc/{process}/stat")
    for _ in range(100):
        try:
            if ") Z " in stat.read_text():
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False
