"""Every task under configs/task: its settings, and its environment played by a tiny planner."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torchrl.envs.utils import ExplorationType, set_exploration_type

from tests.settings import PRESETS, TASKS, composed, raw_composed
from tests.tiny import tiny_actor
from torchrl_td.config import CONFIGS, Config, check_config, override_config, to_dict
from torchrl_td.data import check_matches_env, load_episodes
from torchrl_td.data.source_info import D4RL_REFERENCES
from torchrl_td.envs.make import make_base_env, make_env, make_gym_env, reports
from torchrl_td.experiment.play import play_episodes

D4RL_SAMPLE = Path(__file__).parent / "data" / "d4rl" / "door-v0_demos_sample.hdf5"
# Horizon, refine steps, guidance, learning rate and target return: the paper's Table A6, and the
# authors' code where it has no row.
GYM = ("medium-expert", "medium", "medium-replay")
HAND = ("human", "cloned", "expert")
TABLE: dict[str, tuple[int, int, float, float, float]] = {
    **{
        f"halfcheetah/{q}": (8, 5, 1.1, 2e-4, r)
        for q, r in zip(GYM, (11000, 5300, 5300), strict=True)
    },
    **{f"hopper/{q}": (16, 5, 1.2, 2e-4, r) for q, r in zip(GYM, (3700, 3100, 3100), strict=True)},
    **{
        f"walker2d/{q}": (32, 5, 1.2, 2e-4, r) for q, r in zip(GYM, (5100, 4200, 4200), strict=True)
    },
    **{f"pen/{q}": (16, 2, 1.3, 1e-4, 6000) for q in HAND},
    **{f"door/{q}": (32, 5, 1.2, 1e-4, 1500) for q in HAND},
    **{f"hammer/{q}": (32, 5, 1.2, 1e-4, 17000) for q in HAND},
    **{f"relocate/{q}": (32, 5, 1.2, 1e-4, 4000) for q in HAND},
    "kitchen/partial": (32, 5, 1.2, 1e-4, 500),
    "kitchen/mixed": (32, 5, 1.2, 1e-4, 400),
    "maze2d/umaze": (32, 5, 1.1, 1e-4, 200),
    "maze2d/medium": (64, 5, 1.1, 1e-4, 300),
    "maze2d/large": (128, 5, 1.1, 1e-4, 400),
    "antmaze/umaze": (16, 5, 1.1, 1e-4, 1),
    "antmaze/large": (32, 5, 1.1, 1e-4, 1),
}
# Numbers in an observation and in an action, by the beginning of a task's name.
WIDTHS = {
    "hopper": (11, 3),
    "halfcheetah": (17, 6),
    "walker2d": (17, 6),
    "pen": (45, 24),
    "door": (39, 28),
    "hammer": (46, 26),
    "relocate": (39, 30),
    "kitchen": (59, 9),
    "maze2d": (4, 2),
    "pointmaze": (6, 2),
    "antmaze": (31, 8),
}
LIMITS = {
    "hopper": 1000,
    "halfcheetah": 1000,
    "walker2d": 1000,
    "pen": 100,
    "door": 200,
    "hammer": 200,
    "relocate": 200,
    "kitchen": 280,
    "maze2d/umaze": 300,
    "maze2d/medium": 600,
    "maze2d/large": 800,
    "antmaze/umaze": 700,
    "antmaze/large": 1000,
}


@cache
def settings_of(task: str, preset: str = "paper") -> Config:
    return composed(f"task={task}", f"preset={preset}")


def kind(task: str) -> str:
    """What a task is without `zoo/` and, for all but the mazes, without the data's quality."""
    name = task.removeprefix("zoo/")
    return name if name.startswith(("maze2d", "antmaze", "pointmaze")) else name.split("/")[0]


# One task of each environment and way to set it up, which the data's quality is not.
PLAYED = {
    task: task if task == "kitchen/mixed" else next(t for t in TASKS if kind(t) == kind(task))
    for task in TASKS
}


def test_every_row_of_the_table_has_a_task() -> None:
    assert set(TABLE) <= set(TASKS)
    zoo = {f"zoo/{t}/{q}" for t in ("hopper", "walker2d", "halfcheetah") for q in ZOO}
    assert zoo | {"zoo/door/expert"} <= set(TASKS)


ZOO = ("medium", "medium-expert", "expert", "mixed")


@pytest.mark.parametrize("task", TABLE)
def test_settings_are_the_papers(task: str) -> None:
    config = settings_of(task)
    horizon, refine_steps, guidance, learning_rate, target = TABLE[task]
    assert config.task.horizon == horizon and horizon % 8 == 0  # what the paper's U-Net takes
    assert config.planner.refine_steps == refine_steps
    assert config.planner.guidance_scale == guidance
    assert config.training.learning_rate == learning_rate
    shorter = kind(task) in ("pen", "door", "hammer", "relocate", "kitchen")  # paper 5.2
    assert config.training.steps == (100_000 if shorter else 200_000)
    played = settings_of(PLAYED[task]).task
    assert config.task.env == played.env and config.task.env_kwargs == played.env_kwargs
    assert config.task.observation_keys == played.observation_keys
    assert config.evaluation.target_return == target
    # A hundred per cent of the references is within what the scale makes of a return.
    assert 0.5 <= target / config.task.returns_scale <= 4


@pytest.mark.parametrize("task", TASKS)
def test_every_task_names_itself_its_references_and_its_data(task: str) -> None:
    config = settings_of(task)
    assert config.task.name == task
    played = settings_of(PLAYED[task]).task
    assert config.task.env == played.env and config.task.env_kwargs == played.env_kwargs
    assert config.task.observation_keys == played.observation_keys
    assert config.evaluation.target_return == config.task.target_return
    # The horizon fits the U-Net, which halves a plan at every level but the last.
    for preset in PRESETS:
        levels = len(settings_of("pointmaze/umaze", preset).refiner.multipliers)
        assert config.task.horizon % 2 ** (levels - 1) == 0, preset
    references = next(v for k, v in D4RL_REFERENCES.items() if kind_matches(task, k))
    assert (config.task.score_min, config.task.score_max) == references
    if not task.startswith("pointmaze"):
        assert config.task.max_episode_steps == LIMITS[kind(task)]
    sources = config.dataset.sources
    if task.startswith("zoo/"):
        assert config.dataset.source == f"minari:{task}-v0" and not sources
        return
    assert config.dataset.source in sources.values() and "d4rl" in sources
    pattern = r"minari:([\w.-]+/)+[\w.-]+-v\d+|d4rl:[a-z0-9-]+-v\d"
    assert all(re.fullmatch(pattern, source) for source in sources.values())
    if task == PLAYED[task]:
        assert check_config(to_dict(config)) == config
        for name, source in sources.items():
            assert override_config(config, [f"dataset.source={name}"]).dataset.source == source


def kind_matches(task: str, reference: str) -> bool:
    """Whether D4RL's reference `maze2d-umaze` or `hopper` is meant for the task."""
    name = kind(task).replace("pointmaze", "maze2d").replace("/", "-")
    return name.startswith(reference)


def test_d4rl_ids_are_those_that_can_be_had() -> None:
    from torchrl.data.datasets import d4rl_infos

    known = set(re.findall(r"[a-z0-9-]+-v\d", Path(d4rl_infos.__file__).read_text()))
    for task in TASKS:
        for source in settings_of(task).dataset.sources.values():
            if source.startswith("d4rl:"):
                assert source.removeprefix("d4rl:") in known, task


@pytest.mark.parametrize("task", ["kitchen/mixed", "maze2d/umaze", "zoo/hopper/medium"])
def test_every_task_begins_with_one_preset(task: str) -> None:
    assert composed(f"task={task}").preset == "strided"


@pytest.mark.parametrize("preset", PRESETS)
def test_tasks_go_with_every_preset(preset: str) -> None:
    some = ["hopper/medium", "kitchen/mixed", "antmaze/large", "door/human", "pen/human"]
    # Horizon and stride of preset strided are each task's own.
    for task in TASKS if preset == "strided" else [*some, "pointmaze/umaze"]:
        config = settings_of(task, preset)
        assert config.task.name == task and config.preset == preset
        if preset == "reference":  # the authors' floor
            assert config.planner.returns_floor_share == pytest.approx(1 / 3)


@pytest.mark.parametrize("task", sorted(set(PLAYED.values())))
def test_a_planner_plays_fifty_steps(task: str) -> None:
    """The environment builds, gives the numbers the data has, and takes the planner's actions."""
    settings = replace(settings_of(task).task, max_episode_steps=50)
    widths = next(w for k, w in WIDTHS.items() if kind(task).startswith(k))
    actor = tiny_actor(*widths)
    env = make_env(settings, 1, seeds=[0], primer=actor.make_tensordict_primer())
    assert env.observation_spec["observation"].shape == (1, widths[0])
    assert env.action_spec.shape == (1, widths[1])
    assert (env.action_spec.space.low == -1).all() and (env.action_spec.space.high == 1).all()
    with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
        episodes = play_episodes(env, actor, 50, reports(settings))
    assert torch.isfinite(episodes.returns).all()
    falls = kind(task) in ("hopper", "walker2d")
    assert episodes.lengths.tolist() == [50] or falls
    assert (episodes.successes is not None) == (settings.success_key is not None)
    env.close()


@pytest.mark.parametrize("task", ["kitchen/partial", "antmaze/umaze", "antmaze/large"])
def test_the_observation_is_put_together_as_said(task: str) -> None:
    settings = settings_of(task).task
    raw, _ = make_gym_env(settings, seed=0).reset()
    expected = np.concatenate([raw[key] for key in settings.observation_keys or []])
    got = make_base_env(settings, seed=0).reset()["observation"]
    if task.startswith("kitchen"):  # which draws the noise on its observation anew
        np.testing.assert_allclose(got.numpy(), expected, atol=0.1)
    else:
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("size", ["umaze", "large"])
def test_the_ant_starts_and_ends_where_its_data_does(size: str) -> None:
    settings = settings_of(f"antmaze/{size}").task
    env: Any = make_gym_env(settings)
    cells = {"umaze": ((3, 1), (1, 1)), "large": ((1, 1), (7, 9))}[size]
    for seed in range(3):
        env.reset(seed=seed)
        base = env.unwrapped
        assert tuple(base.maze.cell_xy_to_rowcol(base.reset_pos)) == cells[0]
        assert tuple(base.maze.cell_xy_to_rowcol(base.goal)) == cells[1]
    base.goal = base.reset_pos.copy()  # the goal reached ends the episode and pays once
    _, reward, terminated, _, info = env.step(np.zeros(8, np.float32))
    assert reward == 1 and terminated and info["success"]


def test_the_data_has_the_environments_entries_in_the_environments_order(
    tiny_pointmaze: str,
) -> None:
    """The first observation of an episode, from its recorded seed and cells."""
    settings = replace(settings_of("pointmaze/umaze").task, reset_options={})
    episodes = load_episodes(tiny_pointmaze, observation_keys=settings.observation_keys)
    env = make_base_env(settings)
    check_matches_env(episodes, env)
    dataset = minari.load_dataset(tiny_pointmaze.removeprefix("minari:"))
    starts = [int((episodes["episode"] == i).nonzero()[0]) for i in range(3)]
    for start, meta in zip(starts, dataset.storage.get_episode_metadata(range(3)), strict=True):
        options = {key: np.array(value) for key, value in meta["options"].items()}
        step = env.base_env._env.reset(seed=int(meta["seed"]), options=options)[0]
        expected = np.concatenate([step["observation"], step["desired_goal"]])
        np.testing.assert_allclose(episodes["observation"][start], expected, rtol=1e-6)


def test_d4rls_own_file_fits_its_task() -> None:
    """A piece of D4RL's door-human file in the door task."""
    settings = settings_of("door/human").task
    episodes = load_episodes(f"d4rl:{D4RL_SAMPLE}")
    check_matches_env(episodes, make_base_env(settings))
    # What the planner is asked for is about the best that there is.
    returns = episodes["returns_to_go"][:, 0]
    assert 0.3 < float(returns.max()) / settings.target_return < 1.5


@pytest.mark.parametrize(
    "file", [f"algorithm/{p.stem}" for p in sorted(CONFIGS.glob("algorithm/*.yaml"))]
)
def test_all_that_an_algorithm_s_file_says_holds(file: str) -> None:
    """`evaluation.deterministic: false` of two baselines was overridden in silence."""
    group, name = file.split("/")
    made = raw_composed(f"{group}={name}")
    said = OmegaConf.merge(made, OmegaConf.load(CONFIGS / f"{file}.yaml"))
    assert OmegaConf.to_container(made, resolve=True) == OmegaConf.to_container(said, resolve=True)


def test_a_task_s_file_may_say_anything(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task/mine.yaml").write_text(
        "# @package _global_\n"
        "task: {name: mine, env: Pendulum-v1}\n"
        "dataset: {source: 'd4rl:a.hdf5'}\n"
        "seed: 7\nevaluation: {episodes: 3, target_return: -100}\n"
    )
    words = (f"hydra.searchpath=[file://{tmp_path}]", "task=mine")
    config = composed(*words)
    assert (config.seed, config.evaluation.episodes) == (7, 3)
    assert config.evaluation.target_return == -100
    assert composed(*words, "evaluation.episodes=5").evaluation.episodes == 5
