"""The recorded Maze2D data: one walk, cut into episodes, paid for one goal that is not shown."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import minari
import numpy as np
import pytest
import torch

from torchrl_td.data import load_episodes
from torchrl_td.data.mazes.maze2d import ensure_maze2d, record_maze2d, walk
from torchrl_td.data.mazes.pointmaze import make_pointmaze, pointmaze_task
from torchrl_td.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def test_one_walk_paid_for_one_goal(folder: Path) -> None:
    dataset_id = record_maze2d("umaze", 2900, seed=3, progress=False)
    dataset = minari.load_dataset(dataset_id)
    episodes = list(dataset.iterate_episodes())
    assert [len(e.rewards) for e in episodes] == [300] * 10
    maze = make_pointmaze("umaze").unwrapped.maze
    goal = maze.cell_rowcol_to_xy(np.array(pointmaze_task("umaze").goal_cell))
    for before, after in pairwise(episodes):
        np.testing.assert_array_equal(before.observations[-1], after.observations[0])
    for episode in episodes:
        assert episode.observations.shape == (301, 4)
        near = np.linalg.norm(episode.observations[1:, :2] - goal, axis=-1) <= 0.45
        np.testing.assert_array_equal(episode.rewards, near.astype(float))
        assert not episode.terminations.any() and episode.truncations.sum() == 1
        assert episode.truncations[-1] and np.abs(episode.actions).max() <= 1
    paid = [e.rewards.sum() for e in episodes]
    assert sum(paid) > 0 and max(paid) < 150  # it goes on, wherever it comes by
    assert dataset.storage.metadata["ref_max_score"] == 161.86


def test_every_cell_is_come_by() -> None:
    env = make_pointmaze("umaze", max_episode_steps=10_000)
    maze = env.unwrapped.maze
    seen = set()
    for _, step in zip(range(4000), walk(env, (1, 1), seed=0), strict=False):
        seen.add(tuple(maze.cell_xy_to_rowcol(step["observation"][:2])))
    assert len(seen) == 7  # all that are not walls


def test_same_seed_same_walk() -> None:
    walks = []
    for seed in (0, 0, 1):
        env = make_pointmaze("medium", max_episode_steps=500)
        pairs = zip(range(200), walk(env, (6, 6), seed), strict=False)
        walks.append(np.stack([step["observation"] for _, step in pairs]))
    assert np.array_equal(walks[0], walks[1]) and not np.array_equal(walks[0], walks[2])


def test_it_is_recorded_once_when_it_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    record = record_maze2d

    def short(size, **kwargs):
        return record(size, 600, **kwargs)

    monkeypatch.setattr("torchrl_td.data.mazes.maze2d.record_maze2d", short)
    for keys in (None, ["observation"]):  # as the task names them, or not
        episodes = load_episodes("minari:maze2d/umaze-v0", observation_keys=keys, progress=False)
        assert "recording" not in capfd.readouterr().err
        assert episodes.shape == (600,) and episodes["observation"].shape == (600, 4)
        assert torch.equal(episodes["episode"], torch.arange(600) // 300)
        monkeypatch.setattr("torchrl_td.data.mazes.maze2d.record_maze2d", None)  # no second time
    assert ensure_maze2d("umaze") == "maze2d/umaze-v0"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: record_maze2d("huge"), "'huge'.*umaze, medium, large"),
        (lambda: record_maze2d("umaze", steps=0), "steps >= 1"),
        (lambda: ensure_maze2d("huge"), "'huge'.*umaze, medium, large"),
    ],
)
def test_bad_arguments(call, message: str, folder: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_recording_is_not_overwritten_unasked(folder: Path) -> None:
    record_maze2d("umaze", 300, progress=False)
    with pytest.raises(InputError, match="umaze-v0 exists; replace it with overwrite=True"):
        record_maze2d("umaze", 300, progress=False)
    record_maze2d("umaze", 300, seed=1, overwrite=True, progress=False)
