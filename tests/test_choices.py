"""Actions that are choices: from data of any form to what an environment's spec asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch.nn import functional as F
from torchrl.data import Bounded, Categorical, OneHot
from torchrl.envs import ExplorationType, GymEnv, TransformedEnv, set_exploration_type

from examples.td_own_data import clumsy_episode, own_data
from tests.checkpoints import untrained_checkpoint
from tests.settings import TINY_RUN
from tests.tiny import tiny_actor
from torchrl_td import InputError, TDPlannerActor, load_episodes, make_checkpoint_env, train
from torchrl_td.checkpoint import action_spec, described_action, find_checkpoint, load_about
from torchrl_td.commands.data import main as td_data
from torchrl_td.commands.recording import planner_policy
from torchrl_td.data.mazes.record_policy import random_policy, record_dataset
from torchrl_td.envs import planning_transforms
from torchrl_td.experiment.checkpoint_evaluation import evaluate_checkpoint
from torchrl_td.modules.choices import action_error, chosen

STEPS = 12
TINY = (*(word for word in TINY_RUN if not word.startswith("task.")), "task.horizon=8")
TINY = (*TINY, f"task.max_episode_steps={STEPS}")
CLONED = ("algorithm=rcbc", "training.steps=2", "evaluation.episodes=1", "progress=false")


def categorical_cartpole() -> GymEnv:
    return GymEnv("CartPole-v1", categorical_action_encoding=True)


@pytest.fixture(scope="module")
def episodes() -> list[dict[str, Any]]:
    env = gymnasium.make("CartPole-v1", max_episode_steps=STEPS)
    return [clumsy_episode(env, seed) for seed in range(12)]


def steps(action: torch.Tensor) -> TensorDict:
    count = len(action)
    state = torch.rand(count + 1, 3)
    return TensorDict(
        observation=state[:-1],
        action=action,
        next=TensorDict(
            observation=state[1:],
            reward=torch.ones(count, 1),
            truncated=(torch.arange(count) == count - 1).unsqueeze(-1),
            batch_size=[count],
        ),
        batch_size=[count],
    )


@pytest.mark.parametrize("spec", [OneHot(3), OneHot(3, dtype=torch.int64), Categorical(3)])
def test_a_checkpoint_keeps_the_dtype_of_choices(spec: Any) -> None:
    """By bool an environment of one's own may look up by a mask, by int64 by number."""
    assert action_spec(described_action(spec)) == spec


def test_every_form_of_choices_is_read_alike() -> None:
    number = torch.tensor([1, 0, 2, 1])
    for action in (number, number.unsqueeze(-1), F.one_hot(number), F.one_hot(number).float()):
        read = load_episodes(steps(action))["action"]
        assert read.dtype == torch.bool and torch.equal(read, F.one_hot(number).bool())
    numbers = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert torch.equal(load_episodes(steps(numbers))["action"], numbers)
    with pytest.raises(InputError, match="whole numbers from -1 to 2, which are taken for choices"):
        load_episodes(steps(number.clone().index_fill_(0, torch.tensor([0]), -1)))


def test_a_minari_dataset_of_choices_has_those_of_its_space(datasets_path: Path) -> None:
    """Of which it may not hold all, counted from where they start."""
    env = gymnasium.make("Pendulum-v1", max_episode_steps=STEPS)
    policy = random_policy(env)
    record_dataset(env, "own/three-v0", policy, STEPS, overwrite=True, progress=False)
    data = datasets_path / "own" / "three-v0" / "data"
    with h5py.File(data / "main_data.hdf5", "r+") as file:
        del file["episode_0/actions"]
        file["episode_0/actions"] = np.array([4, 5] * (STEPS // 2))
    metadata = json.loads((data / "metadata.json").read_text())
    metadata["action_space"] = json.dumps(
        {"type": "Discrete", "dtype": "int64", "start": 4, "n": 3}
    )
    (data / "metadata.json").write_text(json.dumps(metadata))
    action = load_episodes("minari:own/three-v0")["action"]
    assert torch.equal(action[:2], torch.tensor([[True, False, False], [False, True, False]]))
    assert torch.equal(load_episodes("minari:own/three-v0")["action"], action)  # from the cache


def test_scores_are_taught_by_cross_entropy_and_noticed_where_they_overflow() -> None:
    scores, action = torch.randn(5, 3), F.one_hot(torch.tensor([0, 2, 1, 1, 0])).float()
    expected = F.cross_entropy(scores, action, reduction="none")
    assert torch.allclose(action_error(scores, action, True)[:, 0], expected)
    assert torch.equal(chosen(action), action)
    assert chosen(torch.tensor([[1.0, torch.inf]])).isnan().any()


@pytest.mark.parametrize(
    ("words", "env"),
    [(("preset=small",), "CartPole-v1"), (("preset=strided",), categorical_cartpole)],
)
def test_both_kinds_of_planner_choose(
    words: tuple[str, ...], env: Any, episodes: list[dict[str, Any]], tmp_path: Path
) -> None:
    unread = ("task.horizon", "refiner.") if words == ("preset=strided",) else ()
    words = (*(word for word in TINY if not word.startswith(unread)), *words)
    trained = train(episodes, env, settings=words, output_dir=tmp_path / "run")
    form = OneHot if isinstance(env, str) else Categorical
    assert isinstance(trained.actor.spec["action"], form)
    for result in trained.results["results"]:
        assert all(5 < length <= STEPS for length in result["lengths"])
    about = load_about(find_checkpoint(tmp_path / "run"))
    assert about["action_choices"] == ("one_hot" if form is OneHot else "index")
    # A checkpoint plays again, and in environments of either encoding.
    if form is OneHot:
        again = evaluate_checkpoint([f"checkpoint={tmp_path / 'run'}", "device=cpu"])
        assert again["results"][0]["returns"] == trained.results["results"][-1]["returns"]
        play = make_checkpoint_env(tmp_path / "run")
        primed = play.append_transform(trained.actor.make_tensordict_primer())
        assert primed.action_spec.is_in(trained.actor(primed.reset())["action"])
    # and records, if without noise on its actions.
    words = ["--checkpoint", f"{tmp_path / 'run'}", "--steps", "9", "--seed", "3"]
    if form is Categorical:  # which is played where choices have a 1, too
        words = [f"checkpoint={tmp_path / 'run'}", "task.env=CartPole-v1", "device=cpu"]
        again = evaluate_checkpoint(words)
        assert again["results"][0]["returns"] == trained.results["results"][-1]["returns"]
    else:
        td_data(["record", *words, "--dataset", "own/cart-v0"])
        assert len(load_episodes("minari:own/cart-v0")) >= 9
        with pytest.raises(SystemExit, match="2"):
            td_data(["record", *words, "--dataset", "own/cart-v1", "--noise", "0.1"])
    for own in (GymEnv("CartPole-v1"), categorical_cartpole()):
        spec = own.action_spec
        actor = TDPlannerActor.from_checkpoint(tmp_path / "run", action_spec=spec)
        play = TransformedEnv(own, planning_transforms(STEPS))
        play.append_transform(actor.make_tensordict_primer())
        rollout = play.rollout(5, actor)
        assert spec.is_in(rollout["action"][0]) and actor.spec["action"] == spec
    with pytest.raises(InputError, match="choices, and planners of numbers alone are exported"):
        actor.export(tmp_path / "exported")
    other = OneHot if form is Categorical else Categorical
    actor = TDPlannerActor.from_checkpoint(tmp_path / "run")
    wrong = GymEnv("CartPole-v1", categorical_action_encoding=other is Categorical)
    with pytest.raises(InputError, match="give the actor action_spec="):
        _ = TransformedEnv(wrong, actor.make_tensordict_primer()).input_spec
    for spec in (OneHot(3), Bounded(-1.0, 1.0, (2,))):
        with pytest.raises(InputError, match="but the planner's actions are 2 choices"):
            TDPlannerActor.from_checkpoint(tmp_path / "run", action_spec=spec)


@pytest.mark.parametrize("form", [OneHot, Categorical])
def test_what_is_recorded_is_what_was_chosen(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A choice said as its number was recorded as the first one."""
    env = gymnasium.make("CartPole-v1")
    env.action_space = gymnasium.spaces.Discrete(3, start=4)
    parts = tiny_actor(4, 3)
    parts.planner.inverse_dynamics.choices = True
    actor = TDPlannerActor(parts.planner, parts.normalizer, action_spec=form(3))
    monkeypatch.setattr(TDPlannerActor, "from_checkpoint", lambda path: actor)
    policy = planner_policy(Path("unread"), 9.0, env=env)
    found = set()
    for seed in range(20):
        observation = np.random.default_rng(seed).normal(size=4)
        td = TensorDict(
            observation=torch.from_numpy(observation).float()[None],
            target_return=torch.full((1, 1), 9.0),
            is_init=torch.ones(1, 1, dtype=torch.bool),
            planner=actor.planner_spec.zero([1]),
            batch_size=[1],
        )
        with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
            wanted = actor(td)["action"][0]
        wanted = wanted if form is Categorical else wanted.long().argmax()
        assert policy(observation, 0.0, True) == 4 + wanted
        found.add(int(wanted))
    assert len(found) > 1


@pytest.mark.parametrize(("env", "has"), [("CartPole-v1", "2 choices"), ("Hopper-v5", "3 numbers")])
def test_a_planner_is_not_recorded_where_other_actions_are_taken(
    env: str, has: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Numbers were cut to whole ones and recorded as choices."""
    words = ["record", env, "--checkpoint", str(untrained_checkpoint(tmp_path)), "--steps", "9"]
    with pytest.raises(SystemExit, match="2"):
        td_data([*words, "--dataset", "own/other-v0"])
    says = f"error: {env}: its action is of {has}, what was trained here writes 1 numbers\n"
    assert capsys.readouterr().err == says


def test_cloning_chooses_and_other_baselines_say_that_they_do_not(
    episodes: list[dict[str, Any]], tmp_path: Path
) -> None:
    few = [w for w in TINY if w.split(".")[0] in ("training", "evaluation", "progress", "device")]
    few = [*few, f"task.max_episode_steps={STEPS}", "dataset.validation_share=0.2"]
    few = [word for word in few if word != "evaluation.baseline=null"]
    words = [*few, "algorithm=rcbc", "algorithm.hidden_dims=[16]"]
    trained = train(episodes, "CartPole-v1", settings=words, output_dir=tmp_path / "rcbc")
    assert len(trained.results["results"][0]["returns"]) == 2
    with pytest.raises(InputError, match="algorithm=iql acts by numbers, and these actions"):
        words = [*few, "algorithm=iql"]
        train(episodes, "CartPole-v1", settings=words, output_dir=tmp_path / "iql")


def test_an_environment_of_another_kind_is_refused(
    episodes: list[dict[str, Any]], tmp_path: Path
) -> None:
    match = "action is 2 choices, the environment's 1 numbers"
    with pytest.raises(InputError, match=match):
        train(episodes, "Own-v0", settings=TINY, output_dir=tmp_path / "run")


class _Own(gymnasium.Env):
    """CartPole's observation, and a number for an action."""

    observation_space = gymnasium.make("CartPole-v1").observation_space
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)


gymnasium.register("Own-v0", _Own, max_episode_steps=STEPS)


@pytest.mark.parametrize(("words", "says"), [((), "planner, refined"), (CLONED, "rcbc")])
def test_the_example_goes_from_data_to_a_playing_actor(
    words: tuple[str, ...], says: str, tmp_path: Path, capsys: Any
) -> None:
    words = words or tuple(word for word in TINY if not word.startswith("task.max"))
    rollout = own_data(tmp_path / "run", 12, list(words))
    assert rollout["action"].shape[1] == 2 and 5 < len(rollout) <= 500
    assert says in capsys.readouterr().out
