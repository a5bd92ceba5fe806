"""Evaluation: the same episodes as a loop written by hand, counted once, kept small."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from tests.tiny import tiny_actor
from torchrl_td import TDPlannerActor
from torchrl_td.config import Config, DatasetConfig, EvaluationConfig, TaskConfig
from torchrl_td.envs.make import make_env
from torchrl_td.errors import InputError
from torchrl_td.experiment.evaluate import evaluate, normalized_score, time_plans
from torchrl_td.experiment.play import play, play_episodes
from torchrl_td.inference import openvino_planner

HOPPER = TaskConfig(
    name="hopper",
    env="Hopper-v5",
    max_episode_steps=40,
    target_return=90.0,
    score_min=-20.272305,
    score_max=3234.3,
)
UMAZE = TaskConfig(
    name="umaze",
    env="PointMaze_UMaze-v3",
    env_kwargs={"continuing_task": True, "reset_target": False},
    reset_options={"goal_cell": [1, 1], "reset_cell": [1, 1]},
    max_episode_steps=6,
    target_return=6.0,
    success_key="success",
)


def settings(task: TaskConfig, **evaluation: Any) -> Config:
    evaluation = {"target_return": task.target_return, "seed": 3, **evaluation}
    return Config(
        preset="small",
        task=task,
        dataset=DatasetConfig(source="none"),
        evaluation=EvaluationConfig(**evaluation),
    )


def play_by_hand(actor: TDPlannerActor, task: TaskConfig, seed: int) -> tuple[float, int]:
    """Return and length of the episode that ``reset(seed=seed)`` starts, with Gymnasium alone."""
    env = gymnasium.make(task.env, max_episode_steps=task.max_episode_steps)
    observation, _ = env.reset(seed=seed)
    planner = actor.planner_spec.zero([1])
    total, length, done = 0.0, 0, False
    while not done:
        step = planner.new_empty(1).empty()
        step["observation"] = torch.tensor(observation, dtype=torch.float32)[None]
        step["target_return"] = torch.tensor([[task.target_return - total]], dtype=torch.float32)
        step["is_init"] = torch.tensor([[length == 0]])
        step["planner"] = planner
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            step = actor(step)
        planner = step["next", "planner"]
        observation, reward, terminated, truncated, _ = env.step(step["action"][0].numpy())
        total, length, done = total + float(reward), length + 1, terminated or truncated
    return total, length


def test_episodes_equal_a_loop_written_by_hand() -> None:
    """Hopper falls early, each episode at another step."""
    actor = tiny_actor(11, 3)
    result = evaluate(actor, settings(HOPPER, episodes=5))
    by_hand = [play_by_hand(actor, HOPPER, 3 + i) for i in range(5)]
    assert result.lengths == [length for _, length in by_hand]
    np.testing.assert_allclose(result.returns, [total for total, _ in by_hand], rtol=1e-5)
    assert min(result.lengths) < max(result.lengths) < 40
    scores = normalized_score(np.array(result.returns), HOPPER)
    np.testing.assert_allclose(result.scores, scores)
    assert result.score_mean == pytest.approx(scores.mean())
    assert result.score_std == pytest.approx(scores.std())
    assert result.success_rate is None and result.episodes == 5
    json.dumps(result.to_dict())


def test_plans_run_faster_play_the_same_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    if not openvino_planner.openvino_installed():
        pytest.skip("needs OpenVINO")
    monkeypatch.setattr(openvino_planner, "PATIENCE", 3)
    quick = {"refine_steps": 1, "guidance_scale": 1.0}
    actor = tiny_actor(11, 3, horizon=4, layers=1, refiner=quick)
    plain = evaluate(actor, settings(HOPPER, episodes=2))
    fast = evaluate(actor.compile("auto"), settings(HOPPER, episodes=2))
    assert (plain.compile, fast.compile) == ("none", "openvino")
    assert fast.lengths == plain.lengths
    np.testing.assert_allclose(fast.scores, plain.scores, rtol=1e-4)


def test_what_is_done_is_neither_stepped_nor_planned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: dict[int, int] = {}
    step = HopperEnv.step

    def counted(self: HopperEnv, action: np.ndarray) -> Any:
        steps[id(self)] = steps.get(id(self), 0) + 1
        return step(self, action)

    monkeypatch.setattr(HopperEnv, "step", counted)
    actor = tiny_actor(11, 3)
    sizes: list[int] = []
    forward = actor.forward

    def sized(tensordict: Any) -> Any:
        sizes.append(tensordict.batch_size[0])
        return forward(tensordict)

    monkeypatch.setattr(actor, "forward", sized)
    env = make_env(HOPPER, 4, seeds=range(4), primer=actor.make_tensordict_primer())
    episodes = play_episodes(env, actor, 40)
    assert sorted(steps.values()) == sorted(episodes.lengths.tolist())
    assert len(sizes) == max(episodes.lengths)
    running = [int((episodes.lengths > t).sum()) for t in range(len(sizes))]
    # Few different sizes, each at most twice what is needed.
    assert all(n <= size < 2 * n + (n == size) for n, size in zip(running, sizes, strict=True))
    assert sizes[0] == 4 and sizes == sorted(sizes, reverse=True) and sizes[-1] < 4


def test_no_plan_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = tiny_actor(6, 2)
    plans: list[weakref.ref] = []
    forward = actor.forward

    def watched(tensordict: Any) -> Any:
        out = forward(tensordict)
        plans.append(weakref.ref(out["plan", "refined"]))
        return out

    monkeypatch.setattr(actor, "forward", watched)
    task = replace(UMAZE, max_episode_steps=30)
    env = make_env(task, 2, seeds=(0, 1), primer=actor.make_tensordict_primer())
    episodes = play_episodes(env, actor, 30)
    assert len(plans) == 30 and episodes.lengths.tolist() == [30, 30]
    assert sum(plan() is not None for plan in plans) <= 2
    assert set(actor.in_keys) <= set(episodes.situation.keys(True))


@pytest.mark.usefixtures("forking")
def test_worker_processes_play_the_same_episodes() -> None:
    actor = tiny_actor(11, 3)
    serial = evaluate(actor, settings(HOPPER, episodes=3))
    parallel = evaluate(actor, settings(HOPPER, episodes=3, workers=2))  # two and then one
    assert parallel.lengths == serial.lengths
    np.testing.assert_allclose(parallel.returns, serial.returns, rtol=1e-5)


def test_turns_play_the_same_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = tiny_actor(11, 3)
    at_once = evaluate(actor, settings(HOPPER, episodes=5))
    monkeypatch.setattr("torchrl_td.experiment.evaluate._MAX_ENVS", 2)
    in_turns = evaluate(actor, settings(HOPPER, episodes=5))
    assert in_turns.lengths == at_once.lengths
    np.testing.assert_allclose(in_turns.returns, at_once.returns, rtol=1e-5)
    others = evaluate(actor, settings(HOPPER, episodes=5, seed=4))  # overlap in all but the ends
    np.testing.assert_allclose(others.returns[:4], at_once.returns[1:], rtol=1e-5)


def test_sampling_noise_comes_from_the_seed_and_leaves_the_callers_state_alone() -> None:
    actor = tiny_actor(11, 3)
    before = torch.get_rng_state()
    noisy = [
        evaluate(actor, settings(HOPPER, episodes=2, deterministic=False)).returns for _ in range(2)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert noisy[0] == noisy[1]
    assert noisy[0] != evaluate(actor, settings(HOPPER, episodes=2)).returns


def test_success_is_counted_beside_the_return() -> None:
    """Starts in the goal's cell or in the farthest one, six steps from the end."""
    actor = tiny_actor(6, 2)
    for task, share in (
        (UMAZE, 1.0),
        (replace(UMAZE, reset_options={"goal_cell": [1, 1], "reset_cell": [3, 1]}), 0.0),
    ):
        result = evaluate(actor, settings(task, episodes=2, seed=11))
        assert result.success_rate == share
        assert [r > 0 for r in result.returns] == [share > 0] * 2


@pytest.mark.slow
def test_kitchen_is_scored_by_tasks_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reward counts a completed task at every step; the score counts it once."""
    import gymnasium_robotics
    from gymnasium_robotics.envs.franka_kitchen import KitchenEnv

    gymnasium.register_envs(gymnasium_robotics)
    compute_reward = KitchenEnv.compute_reward

    def opened(self: KitchenEnv, achieved: dict, desired: dict, info: dict) -> float:
        near = {**achieved, "microwave": desired["microwave"], "kettle": desired["kettle"]}
        return compute_reward(self, near, desired, info)

    monkeypatch.setattr(KitchenEnv, "compute_reward", opened)
    task = TaskConfig(
        name="kitchen",
        env="FrankaKitchen-v1",
        env_kwargs={
            "tasks_to_complete": ["microwave", "kettle", "light switch", "slide cabinet"],
            "remove_task_when_completed": False,
            "terminate_on_tasks_completed": False,
        },
        max_episode_steps=3,
        observation_keys=["observation"],
        success_key="episode_task_completions",
        score_key="episode_task_completions",
        score_min=0.0,
        score_max=4.0,
    )
    result = evaluate(tiny_actor(59, 9), settings(task, episodes=1))
    assert result.returns == [6.0] and result.scores == [50.0] and result.success_rate == 0.0


def test_times_are_of_plans_even_where_plans_are_followed(monkeypatch) -> None:
    actor = tiny_actor(6, 2, replan_every=4, warm_start="previous", refresh_every=5)
    env = make_env(UMAZE, 1, seeds=[0], primer=actor.make_tensordict_primer())
    situation = play_episodes(env, actor, 6).situation
    planned: list[int] = []
    plan = actor.receding_horizon._plan

    def counted(*args: Any) -> Any:
        planned.append(int(args[3]))
        return plan(*args)

    monkeypatch.setattr(actor.receding_horizon, "_plan", counted)
    seconds = time_plans(actor, situation, count=7)
    assert len(seconds) == 7 and min(seconds) > 0
    assert len(planned) == 7 + 3 * 5 and all(step % 4 == 0 for step in planned)
    assert {step // 4 % 5 for step in planned} == set(range(5))  # fresh drafts among them


def test_pictures_get_every_plan() -> None:
    actor = tiny_actor(6, 2)
    env = make_env(UMAZE, 1, seeds=[0], primer=actor.make_tensordict_primer())
    rollout = play(env, actor, 6)
    assert rollout["plan", "refined"].shape == (1, 6, 8, 6)


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, KeyError])
def test_a_failing_environment_is_one_line(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: HopperEnv, action: np.ndarray) -> Any:
        raise kind("the simulation diverged\nat step 3")

    monkeypatch.setattr(HopperEnv, "step", broken)
    with pytest.raises(InputError, match=r"during evaluation \('?the simulation div") as caught:
        evaluate(tiny_actor(11, 3), settings(HOPPER, episodes=1))
    assert "workers=0" not in str(caught.value)  # it has none


@pytest.mark.parametrize(
    ("value", "score"), [(23.85, 0.0), (161.86, 100.0), (92.855, 50.0), (0.0, -17.2814)]
)
def test_normalized_score(value: float, score: float) -> None:
    task = TaskConfig(name="maze", env="e", score_min=23.85, score_max=161.86)
    assert normalized_score(value, task) == pytest.approx(score, abs=1e-3)
    assert normalized_score(value, replace(task, score_min=None)) == value
