"""Episodes told the goal that is played: their goals, their pay, and what cannot be told one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from tensordict import TensorDictBase
from torchrl import torchrl_logger

from tests.settings import composed
from torchrl_td.config import Config, TaskConfig, check_read
from torchrl_td.data import load_episodes
from torchrl_td.envs import make_gym_env, tell_played_goals, with_played_goals
from torchrl_td.errors import InputError
from torchrl_td.experiment.results import describe_run
from torchrl_td.training.trainer import Trainer

RADIUS = 0.45  # of the mazes' goals
SHARE = "value.played_goal_share"


@pytest.fixture
def episodes(tiny_pointmaze: str) -> TensorDictBase:
    return load_episodes(tiny_pointmaze)


@pytest.fixture
def task(tiny_config: Callable[..., Config]) -> TaskConfig:
    return tiny_config().task


def test_told_episodes_are_paid_for_the_goal_that_is_played(
    episodes: TensorDictBase, task: TaskConfig
) -> None:
    """Goals, rewards and returns by hand."""
    task = replace(task, reset_options={"goal_cell": [1, 2]})  # half way, so that many pass it
    told = tell_played_goals(episodes, task, seed=1)
    goal, place = told["observation"][:, 4:], told["next", "observation"][:, :2]
    number = episodes["episode"].reshape(-1)
    base = make_gym_env(task).unwrapped
    middle = base.maze.cell_rowcol_to_xy(np.array(task.reset_options["goal_cell"]))
    shift = (goal - torch.tensor(middle)).abs()
    assert shift.max() <= base.position_noise_range * base.maze.maze_size_scaling
    assert len(goal.unique(dim=0)) == len(number.unique())  # one an episode
    assert torch.equal(told["next", "observation"][:, 4:], goal)
    paid = ((place - goal).norm(dim=-1) <= RADIUS).float()
    assert torch.equal(told["next", "reward"][:, 0], paid) and 0 < paid.mean() < 1
    for which in number.unique():
        mine = paid[number == which].numpy()
        to_go = told["returns_to_go"][number == which, 0].numpy()
        assert np.array_equal(to_go, mine[::-1].cumsum()[::-1])
    for key in ("action", ("next", "done"), "episode"):
        assert torch.equal(told[key], episodes[key])


def test_an_end_at_its_own_goal_is_no_end_of_the_way_to_another(
    episodes: TensorDictBase, task: TaskConfig
) -> None:
    ended = episodes.clone()
    ended["next", "terminated"] = ended["next", "done"].clone()
    ended["next", "truncated"] = torch.zeros_like(ended["next", "done"])
    told = tell_played_goals(ended, task, seed=0)
    assert not told["next", "terminated"].any()
    assert torch.equal(told["next", "truncated"], ended["next", "done"])


def test_the_place_is_found_where_the_task_names_it(task: TaskConfig) -> None:
    """An ant's place is no part of its pose: AntMaze's tasks put it first."""
    ant = composed("task=antmaze/umaze").task
    ant = replace(ant, env_kwargs={**ant.env_kwargs, "continuing_task": True})
    env = make_gym_env(ant)
    start = env.reset(seed=0)[0]
    state = np.concatenate([start[key] for key in ant.observation_keys])
    steps = np.tile(state, (3, 1))
    walk = {"observations": steps, "actions": np.ones((3, 8)), "rewards": [0.0, 0.0, 0.0]}
    goal = tell_played_goals(load_episodes([walk]), ant, seed=0)["observation"][0, -2:]
    assert (goal - torch.tensor(state[-2:])).abs().max() < 4  # in the same cell, which is 4 wide
    steps[:, -2:] = steps[1:, :2] = goal  # carried to it
    walk["rewards"] = [1.0, 1.0, 1.0]
    told = tell_played_goals(load_episodes([walk]), ant, seed=0)
    assert torch.equal(told["observation"][:, -2:], goal.expand(3, 2))
    assert told["next", "reward"].flatten().tolist() == [1.0, 1.0, 1.0]
    pose = replace(ant, observation_keys=["observation", "desired_goal"])
    posed = load_episodes([{**walk, "observations": steps[:, 2:]}])
    with pytest.raises(InputError, match="what is achieved in environment 'AntMaze"):
        tell_played_goals(posed, pose, seed=0)


@pytest.mark.parametrize(
    ("env", "keys", "said"),
    [
        ("PointMaze_UMaze-v3", ["observation"], "'PointMaze_UMaze-v3' shows no desired_goal"),
        ("Pendulum-v1", None, "'Pendulum-v1' shows no desired_goal"),
    ],
)
def test_no_goal_that_is_shown(
    episodes: TensorDictBase, env: str, keys: list[str] | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        tell_played_goals(episodes, TaskConfig(env=env, observation_keys=keys), seed=0)


def test_data_of_other_rewards_are_trained_on_as_they_are(
    episodes: TensorDictBase, task: TaskConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = episodes.clone()
    other["next", "reward"] = other["next", "reward"] - 1
    with pytest.raises(InputError, match=r"100.0% of the data's rewards are not what .* pays"):
        tell_played_goals(other, task, seed=0)
    warned: list[str] = []
    monkeypatch.setattr(torchrl_logger, "warning", warned.append)
    assert with_played_goals(other, task, seed=0) is other
    assert "100.0% of" in warned[0] and "from the data's own goals alone" in warned[0]


def test_an_environment_that_pays_no_goal_told_to_it(
    episodes: TensorDictBase, task: TaskConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = type(make_gym_env(task).unwrapped).__mro__
    owner = next(kind for kind in kinds if "compute_reward" in vars(kind))
    monkeypatch.delattr(owner, "compute_reward")
    with pytest.raises(InputError, match="the environment has no compute_reward to pay it by"):
        tell_played_goals(episodes, task, seed=0)


def test_the_value_alone_learns_of_them(
    tiny_config: Callable[..., Config], episodes: TensorDictBase
) -> None:
    """A quarter of the plans again, as told and paid; every other part has the data's goals."""
    words = ("preset=strided", "dataset.validation_share=0", "training.batch_size=8")
    config = tiny_config(*words, f"{SHARE}=0.25")
    trainer = Trainer(config, episodes, torch.device("cpu"))
    told = tell_played_goals(episodes, config.task, config.seed)
    batch = trainer.buffer.sample()
    present = batch["index"][:, 0]
    parts = trainer.algorithm.prepare(batch)
    value = parts["plan_value"]
    assert value["plan", "scored"].tolist() == [True] * 8 + [False] * 2
    denormalize = trainer.model.normalizer.denormalize
    torch.testing.assert_close(
        denormalize(value["observation"][:8]), episodes["observation"][present]
    )
    torch.testing.assert_close(
        denormalize(value["observation"][8:]), told["observation"][present[:2]]
    )
    last = batch["index"][:2, -1]
    torch.testing.assert_close(denormalize(value["plan", "end"][8:]), told["observation"][last])
    for row, (start, end) in enumerate(zip(present[:2].tolist(), last.tolist(), strict=True)):
        paid = told["next", "reward"][start:end, 0]
        paid = (paid * config.value.discount ** torch.arange(len(paid))).sum()
        unit = trainer.algorithm.units["value"]
        torch.testing.assert_close(
            value["plan", "reward"][8 + row, 0] * unit, paid, atol=1e-4, rtol=0
        )
    shown = denormalize(parts["generator"]["observation"])
    torch.testing.assert_close(shown, episodes["observation"][batch["index"]])
    before = [p.clone() for p in trainer.algorithm.plan_value.parameters()]
    trainer.train_step()
    after = trainer.algorithm.plan_value.parameters()
    assert any(not torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_no_goal_of_the_evaluation_is_told(
    tiny_config: Callable[..., Config], task: TaskConfig
) -> None:
    """Reset seeds 0, 1, ... of a thousand episodes held those that evaluation counts from."""
    evaluation = tiny_config().evaluation
    walk = {"observations": torch.ones(2, 6), "actions": torch.ones(2, 2), "rewards": [1.0, 1.0]}
    many = load_episodes([walk] * (evaluation.seed + 20))
    told = {tuple(goal) for goal in tell_played_goals(many, task, 0)["observation"][:, 4:].tolist()}
    env = make_gym_env(task)
    starts = [env.reset(seed=evaluation.seed + i)[0]["desired_goal"] for i in range(20)]
    assert len(told) == evaluation.seed + 20
    assert not told & {tuple(goal) for goal in torch.tensor(np.array(starts)).float().tolist()}


def test_data_that_reach_no_goal_of_theirs_are_learnt_from(
    tiny_config: Callable[..., Config], episodes: TensorDictBase, task: TaskConfig
) -> None:
    """The least and most that a value can be were those of no reward at all."""
    apart = episodes.clone()
    for key in ("observation", ("next", "observation")):
        apart[key][:, 4:] = 100.0
    apart["next", "reward"].zero_()
    cell = {"goal_cell": [1, 2]}  # half way, so that many pass it
    assert tell_played_goals(apart, replace(task, reset_options=cell), 0)["next", "reward"].any()
    config = tiny_config("preset=strided", "dataset.validation_share=0")
    config.task.reset_options = cell
    algorithm = Trainer(config, apart, torch.device("cpu")).algorithm
    assert 1e-3 < algorithm.units["value"] < 1e3
    assert algorithm.losses["plan_value"].bounds[1] > 0


@pytest.mark.parametrize(
    "word",
    [
        f"{SHARE}=0.0",
        "task.scored=false",
        "task.pays_any_goal=false",
        "algorithm=rcbc",
    ],
)
def test_training_leaves_it_out(
    tiny_config: Callable[..., Config],
    episodes: TensorDictBase,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def told(*_: object) -> None:
        raise AssertionError("episodes are told a goal that nothing learns from")

    monkeypatch.setattr("torchrl_td.training.trainer.with_played_goals", told)
    config = tiny_config("preset=strided", "dataset.validation_share=0", word)
    Trainer(config, episodes, torch.device("cpu"))


def test_data_of_another_width_are_trained_on_as_they_are(
    episodes: TensorDictBase, task: TaskConfig
) -> None:
    narrow = episodes.copy()
    for key in ("observation", ("next", "observation")):
        narrow[key] = episodes[key][:, :4]
    assert with_played_goals(narrow, task, seed=0) is narrow


@pytest.mark.parametrize("word", ["task.scored=false", "task.pays_any_goal=false"])
def test_elsewhere_it_is_refused_and_not_recorded(
    tiny_config: Callable[..., Config], word: str
) -> None:
    config = tiny_config("preset=strided", word)
    with pytest.raises(InputError, match=f"{SHARE} tells the value another goal: it needs"):
        check_read(config, [f"{SHARE}=1.0"])
    assert "played_goal_share" not in describe_run(config, {}, 0)["settings"]["value"]
    read = tiny_config("preset=strided", f"{SHARE}=0.5")
    check_read(read, [f"{SHARE}=0.5"])
    assert describe_run(read, {}, 0)["settings"]["value"]["played_goal_share"] == 0.5
