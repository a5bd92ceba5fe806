"""`torchrl_td.train`: data and environments of every form, from one call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymEnv, GymWrapper, SerialEnv, StepCounter, TransformedEnv

from tests import small_envs
from tests.settings import TINY_RUN, composed
from torchrl_td import InputError, TDPlannerActor, load_episodes, train
from torchrl_td.config import TaskConfig
from torchrl_td.envs import free_name, make_base_env, make_env, opened, own, register_factory
from torchrl_td.experiment.checkpoint_evaluation import evaluate_checkpoint
from torchrl_td.experiment.run import IN_MEMORY, run
from torchrl_td.experiment.train import _settings

STEPS = 12
TINY = (*(word for word in TINY_RUN if not word.startswith("task.")), "task.horizon=8")
TINY = (*TINY, f"task.max_episode_steps={STEPS}")


def torchrl_pendulum() -> Any:
    return GymEnv("Pendulum-v1")


def gym_pendulum() -> gymnasium.Env:
    return gymnasium.make("Pendulum-v1")


def walks(env_id: str, count: int = 10) -> list[dict[str, Any]]:
    """Random walks, in the Decision Transformer's form."""
    env, found = gymnasium.make(env_id, max_episode_steps=STEPS), []
    env.action_space.seed(0)
    for seed in range(count):
        rows: dict[str, list[Any]] = {"observations": [], "actions": [], "rewards": []}
        observation, done = env.reset(seed=seed)[0], False
        while not done:
            action = env.action_space.sample()
            after, reward, terminated, truncated, _ = env.step(action)
            for row, value in zip(rows.values(), (observation, action, reward), strict=True):
                row.append(value)
            observation, done = after, terminated or truncated
        arrays: dict[str, Any] = {key: np.array(rows[key]) for key in ("actions", "rewards")}
        if isinstance(observation, dict):
            shown = {k: np.stack([o[k] for o in rows["observations"]]) for k in observation}
            arrays["observations"] = shown
        else:
            arrays["observations"] = np.stack([*rows["observations"], observation])
        found.append(arrays)
    return found


@pytest.fixture(scope="module")
def collected() -> TensorDictBase:
    """What a collector gathered, with its next observations."""
    torch.manual_seed(0)
    env = TransformedEnv(torchrl_pendulum(), StepCounter(STEPS))
    collector = Collector(env, None, frames_per_batch=120, total_frames=120)
    (batch,) = list(collector)
    return batch.clone()


@pytest.mark.parametrize(
    ("form", "env"),
    [("walks", "Pendulum-v1"), ("buffer", torchrl_pendulum), ("compact", gym_pendulum)],
)
def test_trains_and_plays(
    form: str, env: str | Callable, collected: TensorDictBase, tmp_path: Path
) -> None:
    data: Any = walks("Pendulum-v1")
    if form == "compact":
        data = collected.exclude(("next", "observation"))
    if form == "buffer":
        data = TensorDictReplayBuffer(storage=LazyTensorStorage(len(collected)))
        data.extend(collected)
    trained = train(data, env, settings=TINY, output_dir=tmp_path / "run")
    assert isinstance(trained.actor, TDPlannerActor) and trained.folder == tmp_path / "run"
    assert (trained.folder / "checkpoint").is_dir()
    alone, refined = trained.results["results"]
    assert alone["lengths"] == refined["lengths"] == [STEPS, STEPS]
    assert all(-17 * STEPS < r < 0 for r in alone["returns"])  # Pendulum's rewards
    # The actor plays on, in an environment of the caller's own.
    task = TaskConfig(name="own", env=trained.results["environment"], max_episode_steps=STEPS)
    with opened(make_env(task, 2, primer=trained.actor.make_tensordict_primer())) as batch:
        assert batch.rollout(4, trained.actor)["action"].shape == (2, 4, 1)


def test_a_run_of_data_and_function_goes_on_where_both_are_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, folder = walks("Pendulum-v1"), tmp_path / "run"
    train(data, gym_pendulum, settings=[*TINY, "training.stop_after=2"], output_dir=folder)
    assert not (folder / "results.json").exists()
    with pytest.raises(InputError, match=r"torchrl_td\.train: to continue it call that again"):
        run(composed(*TINY, f"resume={folder}"), [f"resume={folder}"])
    trained = train(data, gym_pendulum, settings=[*TINY, "resume=auto"], output_dir=folder)
    assert trained.results["results"] and (folder / "results.json").exists()
    monkeypatch.setattr(own, "_FACTORIES", {})  # as in another process
    with pytest.raises(InputError, match=r"register_factory\('own/gym_pendulum', function\)"):
        evaluate_checkpoint([f"checkpoint={folder}", "device=cpu"])


def test_a_dict_observation_and_no_environment(tmp_path: Path) -> None:
    small_envs.register()
    keys = ["clock", "robot/position"]
    data = walks("Mixed-v0")
    for walk in data:
        robot = walk["observations"].pop("robot")
        stacked = {key: np.stack([one[key] for one in robot]) for key in robot[0]}
        walk["observations"]["robot"] = stacked
    words = dict(observation_keys=keys, settings=TINY)
    trained = train(data, "Mixed-v0", output_dir=tmp_path / "played", **words)
    assert trained.actor.normalizer.loc.shape == (3,) and trained.results["results"]
    trained = train(data, output_dir=tmp_path / "unplayed", **words)
    assert trained.results["nothing_played"] and not trained.results["results"]


def test_an_entry_called_progress_is_no_score(tmp_path: Path) -> None:
    """Nor is one called success: they were what a task reports by those names."""
    small_envs.register()
    data = walks("Named-v0")
    trained = train(data, "Named-v0", output_dir=tmp_path / "run", settings=TINY)
    result, task = trained.results["results"][0], trained.results["settings"]["task"]
    share = (np.array(result["returns"]) - task["score_min"]) / (
        task["score_max"] - task["score_min"]
    )
    assert result["score_mean"] == pytest.approx(100 * share.mean())
    assert result["success_rate"] is None
    with pytest.raises(InputError, match="'Named-v0' observes an entry 'success', as"):
        words = [*TINY, "+task.success_key=is_success"]
        train(data, "Named-v0", output_dir=tmp_path / "clash", settings=words)


def test_a_task_among_the_settings_changes_neither_data_nor_environment(tmp_path: Path) -> None:
    words = [word for word in TINY if not word.startswith("task.")]
    words = ["task=hopper/medium", "task.horizon=8", f"task.max_episode_steps={STEPS}", *words]
    results = train(
        walks("Pendulum-v1"), "Pendulum-v1", settings=words, output_dir=tmp_path
    ).results
    assert (results["task"], results["environment"]) == ("hopper/medium", "Pendulum-v1")
    assert results["dataset"]["transitions"] == 10 * STEPS
    config = _settings(walks("Pendulum-v1"), None, None, words, "out")
    assert (config.dataset.source, config.task.env) == (IN_MEMORY, None)


def test_what_a_function_is_not_given_is_refused(tmp_path: Path) -> None:
    for make in (gym_pendulum, torchrl_pendulum):
        with pytest.raises(InputError, match=r"env_kwargs\.g=9: env is a function, which is call"):
            train(walks("Pendulum-v1"), make, settings=["++task.env_kwargs.g=9"])
    name = register_factory("own/torchrl", torchrl_pendulum)
    for given in ({"exact_goal": True}, {"reset_options": {"x": 1}}):
        with pytest.raises(InputError, match="is TorchRL's, which task"):
            make_base_env(TaskConfig(name="mine", env=name, **given))


def test_lists_of_trajectories_hold_what_they_say() -> None:
    with_last, without = walks("Pendulum-v1", 2), walks("Pendulum-v1", 2)
    for walk in without:
        walk["observations"] = walk["observations"][:-1]
        walk["terminals"] = np.arange(STEPS) == STEPS - 1
    full, short = load_episodes(with_last), load_episodes(without)
    assert torch.equal(full["observation"], short["observation"])
    assert torch.equal(full["returns_to_go"], short["returns_to_go"])
    last = full["next", "done"].flatten()
    assert torch.equal(short["next", "observation"][last], short["observation"][last])
    assert torch.equal(short["next", "observation"][~last], full["next", "observation"][~last])
    assert full["next", "truncated"].sum() == 2 == short["next", "terminated"].sum()


def test_compact_steps_are_those_that_were_left_out(collected: TensorDictBase) -> None:
    whole = load_episodes(collected)
    compact = load_episodes(collected.exclude(("next", "observation")))
    known = ~whole["next", "done"].flatten()
    assert torch.equal(whole["observation"], compact["observation"])
    following = ("next", "observation")
    assert torch.equal(whole[following][known], compact[following][known])
    assert torch.equal(compact[following][~known], compact["observation"][~known])


def _walk(**changed: Any) -> list[dict[str, Any]]:
    walk = {"observations": np.zeros((4, 3)), "actions": np.ones((4, 1)), "rewards": np.ones(4)}
    return [{k: v for k, v in {**walk, **changed}.items() if v is not None}]


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([], "it holds no trajectories"),
        (["walk"], "trajectory 0 is a str; give mappings of arrays"),
        (_walk(actions=None), "trajectory 0 has no 'actions', only observations, rewards"),
        (_walk(rewards=np.ones((4, 2))), r"have shapes \[4, 1\] and \[4, 2\]; a step has one rew"),
        (_walk(actions=np.ones((0, 1)), rewards=np.ones(0)), r"have shapes \[0, 1\] and \[0\]"),
        (
            [TensorDict(a=torch.ones(4), batch_size=[4])],
            "0 is a TensorDict; give one of all",
        ),
        (_walk(rewards=np.ones(3)), "rewards has 3 rows where there are 4 actions"),
        (_walk(terminals=[0, 1, 0, 1]), "terminals mark another step than the last of 4"),
        (_walk(timeouts=[0, 1, 0, 1]), "timeouts mark another .* give the mapping itself"),
        (_walk(terminals=[0, 0, 0, 1])[0], "mapping of arrays has no 'timeouts', only obs"),
        (_walk(terminals=[0, 1], timeouts=[0, 1])[0], "terminals has 2 rows where there are 4"),
        (_walk(observations=np.zeros((4, 40, 40))), r"image of shape \[40, 40\].* no encoder"),
        ([*_walk(), *_walk(observations=np.zeros((4, 2)))], "differ in size"),
        (_walk(actions=np.array([[1, "a"]] * 4, object)), "trajectory 0: actions is no array of"),
        (_walk(observations=[[0, 1], [0], [0], [0]]), "observations is no array of numbers"),
        (_walk(rewards=np.array(["x"] * 4)), "rewards is no array of numbers"),
        (_walk(terminals=np.array([None] * 4))[0] | {"timeouts": [0] * 4}, "terminals is no array"),
    ],
)
def test_bad_trajectories_are_one_line(data: Any, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        load_episodes(data)
    assert "\n" not in str(caught.value)


def test_arrays_of_any_layout_are_numbers() -> None:
    values = np.arange(12, dtype=">f8").reshape(4, 3)
    walk = _walk(observations=values[::-1], rewards=np.ones(4, np.longdouble)[::-1])
    observation = load_episodes(walk)["observation"]
    assert torch.equal(observation, torch.arange(12.0).reshape(4, 3).flip(0))


def test_an_entry_s_own_name_may_have_a_slash() -> None:
    entries = {"robot/pos": np.ones((4, 2)), "robot": {"speed": np.zeros((4, 1))}}
    for key, width in (("robot/pos", 2), ("robot/speed", 1)):
        data = load_episodes(
            _walk(observations={**entries, "x": np.full((4, 1), 3)}), observation_keys=[key, "x"]
        )
        assert data["observation"].shape == (4, width + 1)


@pytest.mark.parametrize(
    ("dones", "timeouts"), [([0, 0, 0, 1], [0, 0, 0, 1]), ([0, 0, 0, 1], [0] * 4)]
)
def test_dones_are_ends_of_either_kind(dones: list[int], timeouts: list[int]) -> None:
    """A time limit was taken for a termination, whose successor is worth nothing."""
    dones = [0, 0, 0, 1]
    walk = _walk(observations=np.ones((4, 3)), dones=dones, truncations=timeouts)
    state, action, reward = (torch.as_tensor(value).float() for value in list(walk[0].values())[:3])
    flags = {"done": torch.tensor(dones), "truncated": torch.tensor(timeouts)}
    flags = {key: flag.bool()[:, None] for key, flag in flags.items()}
    after = TensorDict(observation=state, reward=reward[:, None], **flags, batch_size=[4])
    steps = TensorDict(observation=state, action=action, next=after, batch_size=[4])
    for form in (walk, walk[0], steps):
        found = load_episodes(form)["next"]
        assert found["terminated"].flatten().tolist() == [False] * 3 + [not timeouts[3]]
        assert found["truncated"].flatten().tolist() == [False] * 3 + [bool(timeouts[3])]


@pytest.mark.parametrize("known", [False, True])
def test_d4rls_mapping_is_cut_where_its_flags_say(known: bool) -> None:
    """Terminals, timeouts, and what is unfinished at its end left out."""
    rng = np.random.default_rng(0)
    state = rng.random((8, 3), dtype=np.float32)
    flags = {"terminals": [0, 0, 1, 0, 0, 0, 0], "timeouts": [0, 0, 0, 0, 0, 1, 0]}
    data = {"observations": state[:-1], "actions": rng.random((7, 2)), "rewards": np.ones(7)}
    if known:
        data["next_observations"] = state[1:]
    episodes = load_episodes(data | {key: np.array(value) for key, value in flags.items()})
    assert episodes["episode"].flatten().tolist() == [0, 0, 0, 1, 1, 1]
    assert episodes["returns_to_go"].flatten().tolist() == [3, 2, 1, 3, 2, 1]
    assert episodes["next", "terminated"].flatten().tolist() == [0, 0, 1, 0, 0, 0]
    assert episodes["next", "truncated"].flatten().tolist() == [0, 0, 0, 0, 0, 1]
    inner = [0, 1, 3, 4]
    assert np.array_equal(episodes["next", "observation"][inner], state[[1, 2, 4, 5]])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.uint16, torch.int64])
def test_observations_of_any_numbers_are_floats(dtype: torch.dtype) -> None:
    state = (torch.rand(41, 3) > 0.5).to(dtype)
    done = torch.zeros(40, 1, dtype=torch.bool)
    done[19::20] = True
    after = TensorDict(observation=state[1:], reward=torch.ones(40, 1), done=done, batch_size=[40])
    steps = TensorDict(
        observation=state[:-1], action=torch.rand(40, 2), next=after, batch_size=[40]
    )
    for data in (steps, steps.exclude(("next", "observation"))):
        assert torch.equal(load_episodes(data)["observation"], state[:-1].float())


def test_functions_of_one_name_make_environments_of_two() -> None:
    made = [free_name("own/<lambda>", f) for f in (gym_pendulum, gym_pendulum, torchrl_pendulum)]
    assert made == ["own/<lambda>"] * 3  # none is registered so far
    register_factory("own/<lambda>", gym_pendulum)
    assert free_name("own/<lambda>", gym_pendulum) == "own/<lambda>"
    assert free_name("own/<lambda>", torchrl_pendulum) == "own/<lambda>-2"


def integers() -> GymWrapper:
    return GymWrapper(gymnasium.make("Integers-v0"))


def test_whole_numbers_of_an_environment_are_floats() -> None:
    small_envs.register()
    name = register_factory("own/integers", integers)
    assert not integers().observation_spec["observation"].dtype.is_floating_point
    task = TaskConfig(name="integers", env=name, max_episode_steps=STEPS)
    with opened(make_base_env(task)) as env:
        assert env.rollout(3)["next", "observation"].dtype == torch.float32
        env.check_env_specs()


def _picture() -> gymnasium.Env:
    env = gym_pendulum()
    env.observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    return env


@pytest.mark.parametrize(
    ("factory", "match"),
    [
        (_picture, r"image of shape \[64, 64, 3\]: plans are made of vectors, and there is no enc"),
        (lambda: 1 / 0, "fails: division by zero"),
        (lambda: "env", "gives a str; a Gymnasium or TorchRL environment is needed"),
        (lambda: SerialEnv(2, torchrl_pendulum), "is to make one environment"),
    ],
)
def test_bad_environments_are_one_line(factory: Callable, match: str) -> None:
    name = register_factory("own/bad", factory)
    with pytest.raises(InputError, match=match) as caught:
        make_base_env(TaskConfig(name="bad", env=name))
    assert "\n" not in str(caught.value)


def test_an_environment_that_does_not_fit_is_refused_before_training(tmp_path: Path) -> None:
    small_envs.register()
    with pytest.raises(InputError, match="observation has 3 numbers, the environment's 2"):
        train(walks("Pendulum-v1"), "Point-v0", settings=TINY, output_dir=tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["training.stepz=3"], "unknown setting 'training.stepz'; allowed are "),
        (["preset=nope"], "unknown preset 'nope'; allowed are fast, "),
        (["steps"], "missing EQUAL"),
        ("preset=small", r"'preset=small' is a str; give a list of words"),
        ({"preset": "small"}, "is a dict; give a list of words"),
        (["output_dir=elsewhere"], "output_dir= is an argument of its own"),
        (
            ["dataset.source=minari:mine/other-v0"],
            "dataset.source= is an argument of its own, data,",
        ),
        (["task.env=Hopper-v5"], "task.env= is an argument of its own, env,"),
        (["algorithm=bc", "generator.width=64"], "algorithm=bc does not read generator.width"),
        (["resume=runs/other"], "give output_dir and resume=auto"),
        (["evaluation={baseline: iql}"], "evaluation.baseline=iql: train trains one algorithm"),
        (["evaluation.baseline=iql"], "evaluation.baseline=iql: train trains one algorithm"),
        (["init_normalizer=fit"], "init_normalizer=fit is of weights to start from"),
    ],
)
def test_wrong_settings_are_one_line(words: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=match) as caught:
        train(walks("Pendulum-v1", 2), settings=words, output_dir=tmp_path / "run")
    assert "\n" not in str(caught.value)
