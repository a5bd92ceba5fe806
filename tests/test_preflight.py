"""What an evaluation would fail at is said before the first training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from tensordict import TensorDict
from torchrl.envs import GymWrapper

from tests import small_envs
from tests.refused import refused
from tests.settings import composed
from torchrl_td.baselines import BASELINES
from torchrl_td.config import Config, TaskConfig, override_config
from torchrl_td.data import Normalizer, load_episodes, observation_keys
from torchrl_td.data.choices import widened
from torchrl_td.envs import make_base_env, opened, register_factory
from torchrl_td.errors import InputError
from torchrl_td.experiment import preflight
from torchrl_td.experiment import run as run_module
from torchrl_td.experiment.run import run
from torchrl_td.training.trainer import Trainer

pytestmark = pytest.mark.stranger("environments")
small_envs.register()
MakeConfig = Callable[..., Config]


def settings(make: MakeConfig, env: str, **task: Any) -> Config:
    """A run of two steps in a small environment."""
    config = make("training.steps=2", "training.validate_every=0", "evaluation.compile=none")
    config.task = TaskConfig(
        name="small", env=env, horizon=8, max_episode_steps=small_envs.STEPS, **task
    )
    config.evaluation.target_return = 10.0
    return config


def gathered(env: str) -> TensorDict:
    """Random rollouts, as TorchRL gives them."""
    return GymWrapper(gymnasium.make(env)).rollout(60, break_when_any_done=False)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a training step is taken."""

    def trained(self: Trainer) -> None:
        raise AssertionError("trained before it was refused")

    monkeypatch.setattr(Trainer, "train_step", trained)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("env", "task", "says"),
    [
        ("Point-v0", {"success_key": "succes"}, "no 'succes'; check .* distance, is_success, name"),
        ("Point-v0", {"score_key": "scores"}, "no 'scores'; check task.success_key and task.score"),
        ("Point-v0", {"score_key": "name"}, "task.score_key=name names a str"),
        ("ReportsLast-v0", {"success_key": "succes"}, "no 'succes'"),
        ("Point-v0", {"reset_options": {"impossible": True}}, "no such start.*task.reset_options"),
        ("Point-v0", {"env_kwargs": {"speed": 3}}, "'speed'.*; check task.env, task.env_kwargs"),
        ("Breaks-v0", {}, "fails at a step .RuntimeError: the motor.; check task.env_kwargs"),
        (
            "BreaksLater-v0",
            {"success_key": "is_success"},
            "fails at a step .ValueError: the motor.; check task.env_kwargs",
        ),
        ("NeverFinite-v0", {}, "'observation' holds NaN or Inf"),
        ("IntegerAction-v0", {}, "planned are a Box of floats"),
        ("Pair-v0", {}, "the observation is a Tuple"),
        ("Mission-v0", {}, "entry 'mission' of the observation is a Text.*task.observation_keys"),
    ],
)
def test_refused_before_training(
    env: str, task: dict[str, Any], says: str, tiny_config: MakeConfig
) -> None:
    with pytest.raises(InputError, match=says) as caught:
        run(settings(tiny_config, env, **task), data=gathered("Point-v0"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("algorithm", "asked", "says"),
    [
        ("rcbc", 100.0, "below the mean of the data's episodes, 300; the best brought 400"),
        ("rcbc", 300.0, None),
        ("rcbc", 405.0, None),
        ("rcbc", 450.0, "more than any of the data's episodes brought, 400; their mean is 300"),
        ("bc", 100.0, None),
    ],
)
def test_a_return_that_the_data_does_not_show(
    algorithm: str, asked: float, says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the 1.0 that a task file asks for which says nothing."""
    words = ("task=zoo/hopper/medium", f"evaluation.target_return={asked}")
    config = composed(*words, f"algorithm={algorithm}", "algorithm.hidden_dims=[8]")
    normalizer = Normalizer(torch.zeros(11), torch.ones(11), 1000.0)
    bounds = (-torch.ones(3), torch.ones(3))
    model = BASELINES[algorithm].build(config, normalizer, *bounds)
    said: list[str] = []
    monkeypatch.setattr(preflight, "warn_once", said.append)
    env = make_base_env(config.task, torch.device("cpu"))
    preflight.check_playable(model, config, env, {"return_mean": 300.0, "return_best": 400.0})
    assert len(said) == (says is not None)
    assert says is None or (says in said[0] and f"target_return={asked:g}" in said[0])


@pytest.mark.parametrize("unit", [1.0, 180 / 3.14159])
def test_data_in_other_units_is_told(unit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the data is times 57, as if its angles were all of it, in degrees."""
    config = composed("task=zoo/hopper/medium", "algorithm=bc", "algorithm.hidden_dims=[8]")
    loc, scale = torch.zeros(11), torch.full((11,), 0.05)
    loc[0] = 1.25  # the torso's height at a reset
    normalizer = Normalizer(loc * unit, scale * unit, 1000.0)
    model = BASELINES["bc"].build(config, normalizer, -torch.ones(3), torch.ones(3))
    said: list[str] = []
    monkeypatch.setattr(preflight, "warn_once", said.append)
    env = make_base_env(config.task, torch.device("cpu"))
    preflight.check_playable(model, config, env, {"return_mean": 300.0, "return_best": 400.0})
    assert len(said) == (unit != 1.0)
    assert unit == 1.0 or "entry 0 of its observation is 1.2" in said[0]


@pytest.mark.parametrize(("steps", "told"), [(1000, True), (200, False), (40, False)])
def test_episodes_longer_than_the_environments_are_told(
    steps: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task file that gives no limit has 1000, where Pendulum's is 200."""
    said: list[str] = []
    monkeypatch.setattr(preflight, "warn_once", said.append)
    preflight._check_limit(TaskConfig(name="mine", env="Pendulum-v1", max_episode_steps=steps))
    assert [("of 200 steps" in line) for line in said] == ([True] if told else [])


@pytest.mark.parametrize(("limit", "told"), [(20, True), (200, False)])
def test_episodes_far_shorter_than_the_datas_are_told(
    limit: int, told: bool, tiny_pointmaze: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(preflight, "warn_once", said.append)
    task = composed(f"task.max_episode_steps={limit}").task
    with opened(make_base_env(task, torch.device("cpu"))) as env:
        preflight.check_data(load_episodes(tiny_pointmaze), env, task, "the data")
    assert [("usually have 300 steps" in line) for line in said] == ([True] if told else [])


def test_rewards_of_zero_are_told(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(run_module, "warn_once", said.append)
    data = gathered("Point-v0")
    data["next", "reward"].zero_()
    config = override_config(tiny_config("training.steps=2"), ["evaluation.episodes=0"])
    run(config, data=data)
    assert "all rewards are zero" in said[0]


@pytest.mark.usefixtures("untrained")
def test_a_discrete_entry_that_is_a_number_in_the_data(tiny_config: MakeConfig) -> None:
    data = gathered("Phase-v0")
    for part in (data, data["next"]):
        phase = part["phase"].float().argmax(-1, keepdim=True).float()
        part["observation"] = torch.cat([phase, part["position"]], -1)
    data = data.exclude("phase", "position", ("next", "phase"), ("next", "position"))
    with pytest.raises(InputError, match=r"holds a Discrete entry \('phase' of 3\) as a number"):
        run(settings(tiny_config, "Phase-v0"), data=data)


@pytest.mark.parametrize(
    ("env", "width", "actions"),
    [
        ("Integers-v0", 2, 2),
        ("Row-v0", 2, 2),
        ("Picture-v0", 36, 2),
        ("MatrixAction-v0", 2, 4),
        ("ScalarAction-v0", 2, 1),
        ("Mixed-v0", 13, 2),
    ],
)
def test_every_shape_is_one_vector(env: str, width: int, actions: int) -> None:
    task = TaskConfig(name="small", env=env, max_episode_steps=small_envs.STEPS)
    steps = make_base_env(task, seed=3).rollout(5)
    assert steps["observation"].shape == (5, width) and steps["action"].shape == (5, actions)
    assert steps["observation"].dtype == torch.float32
    # The numbers are those that the environment shows, flattened row by row.
    raw = gymnasium.make(env).unwrapped
    shown, _ = raw.reset(seed=3)
    if not isinstance(shown, dict):
        assert steps["observation"][0].tolist() == shown.reshape(-1).tolist()
    else:
        phase = [1.0, 0.0, 0.0]
        robot = [*shown["robot"]["lidar"].reshape(-1), *shown["robot"]["position"]]
        assert steps["observation"][0].tolist() == [0.0, 0.0, *phase, *robot]


@pytest.mark.parametrize("env", ["Integers-v0", "ReportsLast-v0"])
def test_trains_and_plays(env: str, tiny_config: MakeConfig) -> None:
    config = settings(tiny_config, env, success_key="is_success")
    (_, refined) = run(config, data=gathered(env))["results"]
    assert refined["success_rate"] == 1.0  # also where the last step alone says so


def test_text_is_left_out_where_the_entries_are_named() -> None:
    task = TaskConfig(name="small", env="Mission-v0", observation_keys=["state"])
    assert make_base_env(task).rollout(2)["observation"].shape == (2, 2)


def test_a_nested_entry_is_named_with_a_slash(tiny_config: MakeConfig) -> None:
    keys = ["robot/position", "clock"]
    task = TaskConfig(name="small", env="Mixed-v0", observation_keys=keys)
    steps = make_base_env(task, seed=3).rollout(2)
    assert steps["observation"][0, :2].tolist() == steps["robot", "position"][0].tolist()
    assert steps["observation"].shape == (2, 3)
    with pytest.raises(InputError, match=r"no observation entry 'robot/arm'.* robot/lidar"):
        make_base_env(replace(task, observation_keys=["robot/arm"]))


def test_the_state_stands_where_torchrl_puts_it() -> None:
    """It calls the entry `observation`, before `position`; the data is joined in that order."""
    assert observation_keys(["position", "state"]) == ["state", "position"]
    assert observation_keys(["observation", "position", "state"])[0] == "observation"
    assert observation_keys(["desired_goal", "state"]) == ["state", "desired_goal"]


def test_an_episode_that_turns_nan_costs_itself(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("torchrl_td.experiment.evaluate.torchrl_logger.warning", said.append)
    config = settings(tiny_config, "Diverging-v0", success_key="is_success")
    config.planner.refine_steps = 0
    config.evaluation.episodes = 6
    (result,) = run(config, data=gathered("Point-v0"))["results"]
    assert result["failed"] == 2 and result["success_rate"] == pytest.approx(4 / 6)
    assert sorted(result["lengths"]) == [6, 6, 12, 12, 12, 12]
    assert all(abs(value) < 100 for value in result["returns"])
    assert any("2 of 6 episodes of Diverging-v0 broke off" in line for line in said)


def test_a_corrected_key_is_taken_when_resuming(tiny_config: MakeConfig, tmp_path: Path) -> None:
    data = gathered("Point-v0")
    config = settings(tiny_config, "Point-v0")
    config.training.stop_after = 1
    run(config, data=data)
    word = "task.success_key=is_success"
    wrong = override_config(config, [f"resume={tmp_path / 'run'}", "task.success_key=nope"])
    with pytest.raises(InputError, match="reports no 'nope'"):
        run(wrong, ["resume=x", "task.success_key=nope"], data=data)
    right = override_config(wrong, [word, "training.stop_after=null"])
    summary = run(right, ["resume=x", word], data=data)
    assert summary["results"][-1]["success_rate"] == 1.0


def test_random_states_are_left_alone(tiny_config: MakeConfig, tmp_path: Path) -> None:
    """Else a resumed run, which looks twice, would not be the undisturbed one."""
    data = gathered("Point-v0")
    states = []
    for number in range(2):
        config = settings(tiny_config, "Point-v0")
        config.output_dir = str(tmp_path / str(number))
        config.training.stop_after = 1
        config.evaluation.seed = number
        run(config, data=data)
        states.append(torch.random.get_rng_state())
    assert torch.equal(*states)


def test_a_refused_run_leaves_its_folder_to_the_next(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    wrong = settings(tiny_config, "NeverFinite-v0")
    wrong.dataset.source = "minari:pointmaze/umaze-v0"
    refused(wrong, "observation")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_choices_that_begin_elsewhere_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data say by no word of theirs from where they count, but for Minari's."""

    class FromOne(small_envs.Point):
        action_space = gymnasium.spaces.Discrete(3, start=1)

    said: list[str] = []
    monkeypatch.setattr(preflight, "warn_once", said.append)
    task = TaskConfig(name="mine", env=register_factory("own/from-one", FromOne))

    def check(actions: list[int], name: str) -> None:
        walk = {"observations": torch.rand(4, 2), "rewards": torch.ones(4)}
        data = load_episodes([{**walk, "actions": torch.tensor(actions)}])
        with opened(make_base_env(task)) as env:
            preflight.check_data(widened(data, 3), env, task, name)

    check([0, 1, 2, 0], "minari:mine/choices-v0")
    assert not said
    check([1, 2, 1, 1], "dataset")
    assert len(said) == 1 and "'own/from-one' counts its choices from 1, dataset from 0" in said[0]
    with pytest.raises(
        InputError, match="where its highest is 3 and there are 3; count them from 0"
    ):
        check([1, 2, 3, 1], "dataset")
