"""Small Minari datasets for the tests of the data column, and what is warned of them."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
import torch
from minari.data_collector import EpisodeBuffer
from tensordict import TensorDict
from torchrl import torchrl_logger

from tests.data.helpers import BOX, GOAL
from torchrl_td.data.validation import warn_once


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The warnings logged."""
    found: list[str] = []
    warn_once.cache_clear()
    monkeypatch.setattr(torchrl_logger, "warning", found.append)
    return found


def draw(space: gymnasium.Space, count: int, rng: np.random.Generator) -> Any:
    """Random observations [count, ...] of a space."""
    if isinstance(space, gymnasium.spaces.Dict):
        return {key: draw(entry, count, rng) for key, entry in space.items()}
    return rng.normal(size=(count, *space.shape)).astype(space.dtype)


def write(
    dataset_id: str = "made/plain-v0",
    lengths: tuple[int, ...] = (4, 1, 6),
    data_format: str = "hdf5",
    goal: bool = False,
) -> list[dict[str, Any]]:
    """Write a small Minari dataset anew; returns its episodes as they were given."""
    shutil.rmtree(minari.storage.get_dataset_path(dataset_id), ignore_errors=True)
    rng = np.random.default_rng(0)
    space = GOAL if goal else BOX
    episodes = []
    for number, length in enumerate(lengths):
        ends = np.arange(length) == length - 1
        odd = number % 2 == 1
        episodes.append(
            {
                "observations": draw(space, length + 1, rng),
                "actions": rng.uniform(-1, 1, size=(length, 2)).astype(np.float32),
                "rewards": rng.normal(size=length),
                "terminations": ends & odd,
                "truncations": ends & (not odd),
            }
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # author, e-mail, permalink
        minari.create_dataset_from_buffers(
            dataset_id,
            [EpisodeBuffer(id=i, infos=None, **e) for i, e in enumerate(episodes)],
            observation_space=space,
            action_space=gymnasium.spaces.Box(-1, 1, (2,), np.float32),
            data_format=data_format,
        )
    return episodes


def check(data: TensorDict, episodes: list[dict[str, Any]], vectors: list[np.ndarray]) -> None:
    """What was loaded is what was given; ``vectors`` are the joined observations [T+1, O]."""
    lengths = [len(e["rewards"]) for e in episodes]
    assert torch.bincount(data["episode"]).tolist() == lengths
    for episode, vector, rows in zip(episodes, vectors, data.split(lengths), strict=True):
        assert np.array_equal(rows["observation"], vector[:-1].astype(np.float32))
        assert np.array_equal(rows["next", "observation"], vector[1:].astype(np.float32))
        assert np.array_equal(rows["action"], episode["actions"])
        assert np.array_equal(rows["next", "reward"][:, 0], episode["rewards"].astype(np.float32))
        assert np.array_equal(rows["next", "terminated"][:, 0], episode["terminations"])
        assert np.array_equal(rows["next", "truncated"][:, 0], episode["truncations"])
        done = episode["terminations"] | episode["truncations"]
        assert np.array_equal(rows["next", "done"][:, 0], done)
        total = np.cumsum(episode["rewards"][::-1])[::-1]
        assert np.allclose(rows["returns_to_go"][:, 0], total, atol=1e-5)
        assert np.allclose(rows["next", "returns_to_go"][:, 0], [*total[1:], 0], atol=1e-5)


@pytest.fixture
def write_minari() -> Callable[..., list[dict[str, Any]]]:
    """Writes a small Minari dataset anew and returns its episodes."""
    return write


@pytest.fixture
def check_equal() -> Callable[[TensorDict, list[dict[str, Any]], list[np.ndarray]], None]:
    """Compares what was loaded with what was written."""
    return check
