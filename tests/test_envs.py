"""Environments: how episodes start, what is reported beside the return, what is observed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from minari.serialization import serialize_space
from torchrl.envs import check_env_specs

from tests import small_envs
from tests.tiny import tiny_actor
from torchrl_td import TDPlannerActor
from torchrl_td.commands.recording import flat_observation, planner_policy
from torchrl_td.config import TaskConfig
from torchrl_td.data.sources.minari import _ones
from torchrl_td.data.sources.minari_metadata import discrete_observations
from torchrl_td.envs.flat_spaces import FlatSpaces, _flat
from torchrl_td.envs.gym_wrappers import EpisodeStart, StepReport
from torchrl_td.envs.make import make_base_env, make_env, make_gym_env
from torchrl_td.errors import InputError

UMAZE = TaskConfig(
    name="umaze",
    env="PointMaze_UMaze-v3",
    env_kwargs={"continuing_task": True, "reset_target": False},
    reset_options={"goal_cell": [1, 1], "reset_cell": [3, 1]},
    max_episode_steps=8,
    success_key="success",
)
HOPPER = TaskConfig(name="hopper", env="Hopper-v5", max_episode_steps=20)


class Counting(gymnasium.Env):
    """Completes one of its three sub-tasks at every second step; says nothing at the start."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.done: list[str] = []
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        self.done += ["sub-task"] * (self.steps % 2)
        return np.zeros(2, np.float32), 0.0, False, False, {"done": self.done, "won": True}


def test_the_first_episode_is_that_of_the_seed_and_later_ones_are_others() -> None:
    plain = gymnasium.make("Hopper-v5")
    expected, _ = plain.reset(seed=5)
    env = make_gym_env(HOPPER, seed=5)
    env.reset()  # as building a batch of environments does
    first, _ = env.reset()
    np.testing.assert_array_equal(first, expected)
    env.step(env.action_space.sample())
    second, _ = env.reset()
    assert not np.array_equal(second, expected)
    np.testing.assert_array_equal(env.reset(seed=5)[0], expected)  # a caller's seed still counts


def test_options_are_handed_to_every_reset() -> None:
    env = make_gym_env(UMAZE)
    for seed in range(3):
        env.reset(seed=seed)
        maze = env.unwrapped.maze
        assert tuple(maze.cell_xy_to_rowcol(env.unwrapped.goal)) == (1, 1)
        assert tuple(maze.cell_xy_to_rowcol(env.unwrapped.reset_pos)) == (3, 1)
    env.reset(seed=0, options={"reset_cell": [1, 3]})  # the caller's come on top
    assert tuple(env.unwrapped.maze.cell_xy_to_rowcol(env.unwrapped.reset_pos)) == (1, 3)


def test_without_options_a_reset_is_gymnasiums_own() -> None:
    """PointMaze draws its goal in another order where options are given, even empty ones."""
    task = replace(UMAZE, reset_options={})
    expected, _ = gymnasium.make(UMAZE.env, **UMAZE.env_kwargs).reset(seed=3)
    got, _ = make_gym_env(task, seed=3).reset()
    np.testing.assert_array_equal(got["desired_goal"], expected["desired_goal"])
    np.testing.assert_array_equal(got["observation"], expected["observation"])


def test_sub_tasks_completed_are_counted() -> None:
    env = StepReport(Counting(), success_key="done", score_key="done", sub_tasks=3)
    _, info = env.reset()
    reported = [info]
    for _ in range(5):
        reported.append(env.step(env.action_space.sample())[-1])
    assert [float(i["progress"][0]) for i in reported] == [0, 1, 1, 2, 2, 3]
    assert [bool(i["success"][0]) for i in reported] == [False] * 5 + [True]


def test_an_entry_that_the_environment_does_not_report_is_named() -> None:
    """At an episode's end, for some environments report then alone."""
    env = StepReport(gymnasium.wrappers.TimeLimit(Counting(), 2), success_key="success")
    env.reset()
    assert not env.step(env.action_space.sample())[-1]["success"]
    with pytest.raises(InputError, match=r"no 'success'; check task.success_key .*: done, won"):
        env.step(env.action_space.sample())


def test_success_stands_beside_the_observation() -> None:
    at_goal = replace(UMAZE, reset_options={"goal_cell": [1, 1], "reset_cell": [1, 1]})
    for task, expected in ((UMAZE, False), (at_goal, True)):
        env = make_base_env(task, seed=0)
        check_env_specs(env)
        data = env.rollout(3, lambda td: td.set("action", torch.zeros(2)))
        assert data["next", "success"].dtype == torch.bool
        assert data["next", "success"].squeeze(-1).tolist() == [expected] * 3
    assert "success" not in make_base_env(HOPPER).observation_spec.keys()


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        (None, ["observation", "desired_goal"]),
        (["observation"], ["observation"]),
        (
            ["achieved_goal", "observation", "desired_goal"],
            ["achieved_goal", "observation", "desired_goal"],
        ),
    ],
)
def test_the_entries_of_the_observation_and_their_order(keys, parts) -> None:
    raw, _ = make_gym_env(UMAZE, seed=1).reset()
    got = make_base_env(replace(UMAZE, observation_keys=keys), seed=1).reset()["observation"]
    expected = np.concatenate([raw[part] for part in parts])
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)


def test_an_unknown_entry_of_the_observation_is_named() -> None:
    with pytest.raises(
        InputError, match=r"no observation entry 'goal'; .* name achieved_goal, des"
    ):
        make_base_env(replace(UMAZE, observation_keys=["observation", "goal"]))


@pytest.mark.usefixtures("forking")
def test_each_environment_of_a_batch_has_its_seed_in_worker_processes_too() -> None:
    seeds = (7, 8, 9)
    expected = np.stack([gymnasium.make("Hopper-v5").reset(seed=seed)[0] for seed in seeds])
    for workers in (0, 1):
        env = make_env(HOPPER, 3, workers=workers, seeds=seeds)
        try:
            got = env.reset()["observation"]
        finally:
            env.close(raise_if_closed=False)
        np.testing.assert_allclose(got.numpy(), expected.astype(np.float32))


def test_mazes_leave_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    env = make_gym_env(UMAZE)
    assert env.unwrapped.tmp_xml_file_path.startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    env.reset(seed=0)
    env.step(env.action_space.sample())


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (TaskConfig(name="x", env="NoSuchEnv-v0"), r"cannot build environment 'NoSuchEnv-v0'"),
        (replace(HOPPER, env_kwargs={"wings": 2}), r"cannot build .*Hopper-v5.*task.env_kwargs"),
    ],
)
def test_an_environment_that_cannot_be_used_is_one_line(task: TaskConfig, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_gym_env(task)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"num_envs": 0}, "num_envs must be at least 1, got 0"),
        ({"num_envs": -1}, "num_envs must be at least 1, got -1"),
        ({"num_envs": 2.0}, r"num_envs must be a whole number, got 2\.0"),
        ({"num_envs": 2, "seeds": [1]}, "num_envs=2, but 1 seeds; give one for each"),
        ({"seeds": [-1]}, "a seed must be at least 0, got -1"),
        ({"seed": 1.5}, r"a seed must be a whole number, got 1\.5"),
        ({"device": "cudaX"}, "device='cudaX' cannot be used: .*; try device='cpu'"),
        ({"device": "meta"}, "device='meta' cannot be used: it holds no numbers"),
    ],
)
def test_arguments_of_a_batch_that_cannot_be_are_one_line(words: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_env(HOPPER, **words)
    assert "\n" not in str(caught.value)
    if "device" in words:
        with pytest.raises(InputError, match=message):
            make_base_env(HOPPER, **words)


def test_the_wrapper_passes_on_what_it_does_not_set() -> None:
    seen: list[dict] = []

    class Spy(Counting):
        def reset(self, *, seed=None, options=None):
            seen.append({"seed": seed, "options": options})
            return super().reset(seed=seed, options=options)

    start: Callable[..., EpisodeStart] = EpisodeStart
    start(Spy()).reset()
    start(Spy(), {"cell": 1}).reset(seed=2, options={"noise": 0})
    assert seen == [
        {"seed": None, "options": None},
        {"seed": 2, "options": {"cell": 1, "noise": 0}},
    ]


def test_a_seed_that_is_set_takes_the_place_of_the_first() -> None:
    starts = {}
    for seed in (7, 9):
        env = make_base_env(UMAZE, seed=0)
        env.set_seed(seed)
        starts[seed] = env.reset()["observation"]
    assert not torch.equal(starts[7], starts[9])


def test_an_exact_goal_lies_at_its_cells_middle_whatever_the_seed() -> None:
    """Data without the goal in it is paid for that place; gymnasium-robotics shifts the goal."""
    task = replace(UMAZE, exact_goal=True, observation_keys=["observation"])
    for seed in range(3):
        env = make_gym_env(task, seed=seed)
        observation, _ = env.reset()
        np.testing.assert_array_equal(env.unwrapped.goal, [-1.0, 1.0])  # type: ignore[attr-defined]
        np.testing.assert_array_equal(observation["desired_goal"], [-1.0, 1.0])
        env.close()
    with pytest.raises(InputError, match=r"task\.exact_goal=true needs a maze"):
        make_gym_env(replace(HOPPER, exact_goal=True)).reset()


class Cells(Counting):
    """Observes the row and column of a cell, counted from 1, and which of four lamps are lit."""

    observation_space = gymnasium.spaces.Dict(
        cell=gymnasium.spaces.MultiDiscrete([3, 4], start=[1, 1]),
        lamps=gymnasium.spaces.MultiBinary(4),
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), *super().step(action)[1:]


def test_a_planner_that_is_recorded_acts_in_the_environments_own_shape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = small_envs.MatrixAction()
    observation, _ = env.reset(seed=0)
    actor = tiny_actor(observation.size, 4)
    monkeypatch.setattr(TDPlannerActor, "from_checkpoint", lambda path: actor)
    action = planner_policy(Path("unread"), 9.0, env=env)(observation, 0.0, True)
    assert action.shape == env.action_space.shape == (2, 2)


def test_several_choices_are_vectors_with_a_one_for_each_as_minaris_data_are_read() -> None:
    space = Cells.observation_space
    counted = discrete_observations({"observation_space": serialize_space(space)})
    assert counted == {("cell",): [(1, 3), (1, 4)]}
    space.seed(0)
    raw = np.stack([space.sample()["cell"] for _ in range(50)])
    read = _ones(raw, counted["cell",], "data", "cell")
    for cell, row in zip(raw, read, strict=True):
        expected = np.zeros(7)
        expected[[cell[0] - 1, 3 + cell[1] - 1]] = 1
        assert np.array_equal(row, expected)
        lamps = np.ones(4, np.int8)
        flat = FlatSpaces(Cells())
        seen = _flat({"cell": cell, "lamps": lamps}, space, flat.observation_space)
        assert np.array_equal(seen["cell"], row) and seen["lamps"].shape == (4,)
        recorded = flat_observation({"cell": cell, "lamps": lamps}, ["cell", "lamps"], space)
        assert np.array_equal(recorded[0], [*row, *lamps])
    with pytest.raises(InputError, match="cell has 3 numbers, not 2"):
        _ones(np.ones((5, 3), np.int64), counted["cell",], "data", "cell")
