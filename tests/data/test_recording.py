"""Datasets recorded from any policy in any environment."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import PendulumEnv

from tests import small_envs
from torchrl_td.config import TaskConfig
from torchrl_td.data import load_episodes
from torchrl_td.data.mazes.record_policy import make_environment, random_policy, record_dataset
from torchrl_td.data.source_info import source_info
from torchrl_td.data.task_file import write_task
from torchrl_td.envs import make_base_env
from torchrl_td.envs.gym_wrappers import ExactGoal
from torchrl_td.errors import InputError


def record(dataset_id: str, steps: int = 60, env: Any = None, **settings: Any) -> str:
    env = env or make_environment("Pendulum-v1", max_episode_steps=25)
    policy = settings.pop("policy", None) or random_policy(env, settings.get("seed", 0))
    try:
        return record_dataset(env, dataset_id, policy, steps, progress=False, **settings)
    finally:
        env.close()


def pendulum(kind: Any = None) -> gymnasium.Env:
    """Pendulum, whatever it is told."""
    return PendulumEnv()


@pytest.mark.parametrize("settings", [{}, {"kind": np.float32}], ids=["class", "setting"])
def test_an_environment_that_no_file_can_name(settings: dict[str, Any]) -> None:
    """Registered by what is no text, or with a setting that JSON has no word for."""
    made_by = f"{__name__}:pendulum" if settings else pendulum
    gymnasium.register("Nameless-v0", made_by, max_episode_steps=25, kwargs=settings)
    try:
        env = gymnasium.make("Nameless-v0")
        assert (
            len(load_episodes("minari:" + record(f"test/nameless-v{len(settings)}", env=env))) >= 60
        )
    finally:
        del gymnasium.registry["Nameless-v0"]


def test_what_was_played_is_what_is_loaded() -> None:
    played = []

    def policy(observation: np.ndarray, reward: float, first: bool) -> np.ndarray:
        played.append((observation.copy(), reward, first))
        return np.array([np.sin(len(played))], dtype=np.float32)

    data = load_episodes("minari:" + record("test/played-v0", policy=policy))
    assert data.shape == (75,)  # whole episodes of 25, at least 60 steps
    assert data["episode"].tolist() == [0] * 25 + [1] * 25 + [2] * 25
    assert np.allclose(data["observation"], np.stack([p[0] for p in played]), atol=1e-6)
    assert np.allclose(data["action"][:, 0], np.sin(np.arange(1, 76)), atol=1e-6)
    assert [p[2] for p in played] == ([True] + [False] * 24) * 3
    # The reward handed to the policy is the one the step before was paid, 0 at the start.
    paid = data["next", "reward"].squeeze(-1)
    handed = np.array([p[1] for p in played])
    assert np.allclose(handed[1:25], paid[:24], atol=1e-5) and handed[25] == 0
    assert data["next", "truncated"].sum() == 3 and not data["next", "terminated"].any()


def test_the_environment_replays_the_recording() -> None:
    dataset = minari.load_dataset(record("test/replayed-v0", seed=7))
    env = dataset.recover_environment()
    for episode in dataset.iterate_episodes():
        seed = next(iter(dataset.storage.get_episode_metadata([episode.id])))["seed"]
        observation, _ = env.reset(seed=seed)
        assert np.array_equal(observation, episode.observations[0])
        for action, want in zip(episode.actions, episode.observations[1:], strict=True):
            observation, *_ = env.step(action)
            assert np.array_equal(observation, want)
    env.close()


def test_same_seed_same_data() -> None:
    first, second, other = (
        load_episodes("minari:" + record(f"test/seed{i}-v0", seed=seed))["observation"]
        for i, seed in enumerate((3, 3, 4))
    )
    assert first.equal(second) and not first.equal(other)


def test_dict_observations_stay_as_they_are() -> None:
    env = make_environment("PointMaze_UMaze-v3", max_episode_steps=20)
    dataset = minari.load_dataset(record("test/maze-v0", 40, env))
    episode = next(dataset.iterate_episodes())
    assert set(episode.observations) == {"observation", "desired_goal", "achieved_goal"}
    assert load_episodes("minari:test/maze-v0")["observation"].shape == (40, 6)


def test_an_episode_without_end_is_cut_off() -> None:
    env = gymnasium.make("Pendulum-v1").unwrapped  # no step limit
    (episode,) = minari.load_dataset(record("test/endless-v0", 30, env)).iterate_episodes()
    assert episode.truncations.tolist() == [False] * 29 + [True]
    assert not episode.terminations.any()


def test_references_are_kept() -> None:
    record("test/references-v0", references=(-1500.0, -200.0))
    metadata = minari.load_dataset("test/references-v0").storage.metadata
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (-1500.0, -200.0)


def test_an_existing_dataset_is_replaced_only_on_request() -> None:
    record("test/twice-v0", 25)
    with pytest.raises(InputError, match="overwrite"):
        record("test/twice-v0", 50)
    record("test/twice-v0", 50, overwrite=True)
    assert minari.load_dataset("test/twice-v0").total_steps == 50


@pytest.mark.parametrize(("name", "entry"), [("FrozenLake-v1", None), ("Phase-v0", "phase")])
def test_choices_in_an_observation_are_read_as_the_environment_gives_them(
    name: str, entry: str | None
) -> None:
    """They were read as one number, where TorchRL's environments give a 1 among zeros."""
    small_envs.register()
    env = make_environment(name)
    dataset_id = record(f"test/counted-v{0 if entry is None else 1}", env=env)
    data = load_episodes(f"minari:{dataset_id}")
    observation = data["observation"]
    base = make_base_env(TaskConfig(name="counted", env=name, max_episode_steps=30))
    assert observation.shape[-1] == base.observation_spec["observation"].shape[-1]
    space = env.observation_space if entry is None else env.observation_space[entry]
    stored = [
        episode.observations if entry is None else episode.observations[entry]
        for episode in minari.load_dataset(dataset_id)
    ]
    for rows, values in (
        (slice(None, -1), observation),
        (slice(1, None), data["next", "observation"]),
    ):
        want = np.eye(space.n)[np.concatenate([s[rows] for s in stored])]
        assert np.array_equal(values[:, : space.n], want)


def test_none_lies_in_another(datasets_path: Path) -> None:
    """A replacement of the outer one would take it away."""
    record("test/outer-v0", 50)
    with pytest.raises(InputError, match="would lie in the dataset test/outer-v0; take another id"):
        record("test/outer-v0/inner-v0", 50)
    record("test/data/beside-v0", 50)  # a namespace may be called as a dataset's own folder is
    record("test/data/beside-v1", 50)


def test_a_namespace_may_be_a_link_to_another_disk(datasets_path: Path, small_disk: Path) -> None:
    (datasets_path / "linked").symlink_to(small_disk)
    record("linked/far-v0", 50)
    assert minari.load_dataset("linked/far-v0").total_steps == 50
    assert [path.name for path in small_disk.glob(".*")] == []


def test_a_recording_that_breaks_leaves_nothing(datasets_path: Path) -> None:
    def policy(observation: np.ndarray, reward: float, first: bool) -> np.ndarray:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        record("test/broken-v0", policy=policy)
    assert not (datasets_path / "test" / "broken-v0").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset_id": "pendulum-v0"}, "<namespace>/<name>-v<number>"),
        ({"dataset_id": "../pendulum-v0"}, "<namespace>/<name>-v<number>"),
        ({"dataset_id": "a/pendulum-v0"}, "two characters or more"),
        ({"steps": 0}, "steps >= 1"),
        ({"seed": -1}, "a seed from 0 to"),
        ({"seed": 2**64}, "a seed from 0 to 4294967295, got 18446744073709551616"),
        ({"policy": lambda *_: np.zeros(2, np.float32)}, r"shape \(2,\)"),
        ({"policy": lambda *_: np.array([np.nan], np.float32)}, "NaN"),
    ],
)
def test_bad_recordings(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        record(**{"dataset_id": "test/bad-v0", **settings})
    assert "\n" not in str(caught.value)


def test_choices_are_recorded_and_other_kinds_of_actions_refused() -> None:
    data = load_episodes("minari:" + record("test/cart-v0", env=make_environment("CartPole-v1")))
    assert data["action"].dtype == torch.bool and data["action"].shape[1] == 2
    assert (data["action"].sum(1) == 1).all() and data["action"].any(0).all()
    with pytest.raises(InputError, match="action 2 is none"):
        record("test/none-v0", env=make_environment("CartPole-v1"), policy=lambda *_: 2)
    record("test/lake-v0", env=make_environment("FrozenLake-v1"))  # its choices are keys of a dict
    env = make_environment("CartPole-v1")
    env.action_space = gymnasium.spaces.MultiBinary(2)
    with pytest.raises(InputError, match="are MultiBinary; recorded are a Box of numbers or a"):
        record("test/binary-v0", env=env)


def test_a_maze_with_its_goal_in_the_middle_is_recorded(tmp_path: Path) -> None:
    env = ExactGoal(make_environment("PointMaze_UMaze-v3", max_episode_steps=4))
    goal = {"goal_cell": np.array([1, 1])}
    dataset = minari.load_dataset(record("test/exact-v0", 4, env, reset_options=goal))
    with contextlib.closing(dataset.recover_environment()) as again:
        observation, _ = again.reset(seed=0, options=goal)
    assert observation["desired_goal"].tolist() == [-1.0, 1.0]
    # The data does not say where that goal lies: a task file of it must not play another.
    info, episodes = source_info("minari:test/exact-v0"), load_episodes("minari:test/exact-v0")
    path = write_task(tmp_path / "exact.yaml", "minari:test/exact-v0", episodes, info)
    assert "env: null # recorded with a goal that the data does not tell" in path.read_text()


@pytest.mark.stranger("environments")
def test_entries_of_every_shape_load_as_the_environment_shows_them() -> None:
    """A scalar, integers, a matrix and a nested vector."""
    small_envs.register()
    names = ["clock", "count", ("robot", "lidar"), ("robot", "position")]
    record("test/mixed-v0", 20, make_environment("Mixed-v0"))
    data = load_episodes("minari:test/mixed-v0", observation_keys=names)
    keys = ["clock", "count", "robot/lidar", "robot/position"]
    seed = int(np.random.default_rng(0).integers(2**31))
    env = make_base_env(TaskConfig(name="mixed", env="Mixed-v0", observation_keys=keys), seed=seed)
    want = env.reset()["observation"]
    assert data["observation"].shape == (24, 10) and torch.equal(data["observation"][0], want)


class Odd(gymnasium.Env):
    """An environment that is never reset: its observations are refused before."""

    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, space: gymnasium.Space):
        self.observation_space = space


@pytest.mark.stranger("environments")
@pytest.mark.parametrize(
    ("space", "message"),
    [
        (gymnasium.spaces.Tuple([gymnasium.spaces.Box(-1, 1)]), "observation is a Tuple"),
        (
            gymnasium.spaces.Dict({"a": gymnasium.spaces.Dict({"b": gymnasium.spaces.Text(9)})}),
            "observation/a/b is a Text, which makes no vector",
        ),
        (gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8), "observation is an image"),
        (
            gymnasium.spaces.Dict(eye=gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)),
            "observation is an image",
        ),
    ],
)
def test_observations_that_make_no_vector(space: gymnasium.Space, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        record("test/odd-v0", env=Odd(space))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [np.int32, np.uint8])
def test_whole_numbers_for_actions_are_not_recorded(kind: Any) -> None:
    """They were, to the end, and no part of the project reads them."""
    env = Odd(gymnasium.spaces.Box(-1, 1))
    env.action_space = gymnasium.spaces.Box(0, 9, (2,), kind)
    with pytest.raises(InputError, match=f"actions are a Box of {np.dtype(kind)}, which nothing"):
        record("test/odd-v0", env=env)


def test_unknown_environment() -> None:
    with pytest.raises(InputError, match="cannot build environment 'Nothing-v0'") as caught:
        make_environment("Nothing-v0")
    assert "\n" not in str(caught.value)


@pytest.mark.stranger("machines")
def test_a_disk_that_others_fill_meanwhile(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 meets the end of the disk after room was found, and crashes: not this process."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(small_disk))
    monkeypatch.setattr("torchrl_td.data.mazes.record._reserve", lambda *_: None)
    env = gymnasium.make("Pendulum-v1").unwrapped  # one episode, without a step limit
    (small_disk / "others").write_bytes(bytes(3_050_000))
    with pytest.raises(
        InputError, match=r"no dataset can be written there .*; make room"
    ) as caught:
        record("test/full-v0", 5_000, env)
    assert "\n" not in str(caught.value)
    assert [path.name for path in small_disk.iterdir()] == ["others"]
    (small_disk / "others").unlink()
    record("test/full-v0", 5_000, env)
    assert len(load_episodes("minari:test/full-v0", cache=False)) == 5_000
