"""The planner gives the same actions in every way TorchRL can run it."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor
from torchrl.collectors import Collector, MultiSyncCollector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import (
    Compose,
    EnvBase,
    InitTracker,
    RenameTransform,
    SerialEnv,
    TargetReturn,
    TransformedEnv,
    check_env_specs,
)
from torchrl.envs.utils import ExplorationType, set_exploration_type

from tests.planner.helpers import Build
from torchrl_td import TDPlannerActor
from torchrl_td.config import TaskConfig
from torchrl_td.envs.make import make_base_env, make_env, planning_transforms

COMPARED = ("action", ("plan", "refined"), "observation", "target_return")


class NoiseFromObservation(torch.nn.Module):
    """Noise that is a function of what is observed alone, whoever runs beside."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, observation: Tensor) -> Tensor:
        count = int(torch.Size(self.shape).numel())
        seeds = torch.arange(count, dtype=torch.float64) + 1
        phase = observation.double().sum(-1, keepdim=True) * 3 + seeds * 12.9898
        return (2.0 * torch.sin(phase)).float().view(*observation.shape[:-1], *self.shape)


def with_noise(actor: TDPlannerActor) -> TensorDictSequential:
    noise = NoiseFromObservation(actor.planner.noise_shape(1)[1:])
    module = TensorDictModule(noise, ["observation"], [("planner", "noise")])
    return TensorDictSequential(module, actor)


def assert_same(one: TensorDictBase, other: TensorDictBase) -> None:
    for key in COMPARED:
        torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=1e-4)


def rollout(env: EnvBase, policy, steps: int = 10, **kwargs) -> TensorDictBase:
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        return env.rollout(steps, policy, auto_cast_to_device=False, **kwargs)


def make_two(task: TaskConfig, actor: TDPlannerActor, workers: int) -> EnvBase:
    return make_env(
        task, 2, target_return=90.0, workers=workers, primer=actor.make_tensordict_primer()
    )


@pytest.mark.parametrize("noisy", [False, True])
def test_batched_rows_equal_single_environments(make_actor: Build, pointmaze, single_env, noisy):
    actor = make_actor()
    policy = with_noise(actor) if noisy else actor
    both = rollout(make_two(pointmaze, actor, 0), policy)
    seed = 0
    for row in range(2):
        env = single_env(pointmaze, actor.make_tensordict_primer())
        next_seed = env.set_seed(seed)
        alone = rollout(env, policy)
        assert_same(both[row], alone)
        seed = next_seed
    assert not torch.equal(both["observation"][0], both["observation"][1])
    if noisy:  # the noise reaches the plan
        silent = rollout(make_two(pointmaze, actor, 0), actor)
        assert not torch.allclose(silent["action"][:, 0], both["action"][:, 0], atol=1e-3)


@pytest.mark.usefixtures("forking")
def test_worker_processes_equal_serial(make_actor: Build, pointmaze):
    """Also across an episode's end, where both reset and start anew."""
    actor = make_actor(replan_every=2)
    serial = rollout(
        make_two(pointmaze, actor, 0), with_noise(actor), 18, break_when_any_done=False
    )
    env = make_two(pointmaze, actor, 1)
    try:
        parallel = rollout(env, with_noise(actor), 18, break_when_any_done=False)
    finally:
        env.close()
    assert serial["is_init"].sum() == 4
    assert_same(serial, parallel)


@pytest.mark.parametrize("warm_start", ["none", "previous"])
def test_collector_with_partial_resets_equals_single_environments(
    make_actor: Build, pointmaze, single_env, warm_start: str
):
    """Episodes of 5 and 7 steps: nearly every reset is one row's alone."""
    actor = make_actor(warm_start=warm_start, refresh_every=3)
    tasks = [replace(pointmaze, max_episode_steps=steps) for steps in (5, 7)]
    base = SerialEnv(2, [lambda task=task: make_base_env(task) for task in tasks])
    env = TransformedEnv(base, planning_transforms(90.0))
    env.append_transform(actor.make_tensordict_primer())
    env.set_seed(0)
    collector = Collector(
        env,
        with_noise(actor),
        frames_per_batch=40,
        total_frames=40,
        exploration_type=ExplorationType.DETERMINISTIC,
        auto_register_policy_transforms=False,
    )
    (both,) = list(collector)
    collector.shutdown()
    seed = 0
    for row, task in enumerate(tasks):
        env = single_env(task, actor.make_tensordict_primer())
        next_seed = env.set_seed(seed)
        alone = rollout(env, with_noise(actor), 20, break_when_any_done=False)
        assert alone["is_init"].sum() >= 3
        assert_same(both[row], alone)
        seed = next_seed


def test_collector_adds_primer_and_reset_flag_itself(make_actor: Build, pointmaze, single_env):
    actor = make_actor()
    explicit = rollout(single_env(pointmaze, actor.make_tensordict_primer()), actor, 10)
    collector = Collector(
        single_env(pointmaze),  # no primer
        actor,
        frames_per_batch=10,
        total_frames=10,
        exploration_type=ExplorationType.DETERMINISTIC,
        auto_register_policy_transforms=True,
    )
    (collected,) = list(collector)
    collector.shutdown()
    assert_same(explicit, collected)


def test_a_collector_that_gets_the_outputs_apart(make_actor: Build, pointmaze, single_env):
    """As it does from an actor on another device, which works on a copy of what it reads."""

    class Elsewhere(TDPlannerActor):
        def forward(self, tensordict):
            return super().forward(tensordict.copy())

    def collect(actor: TDPlannerActor) -> TensorDictBase:
        collector = Collector(
            single_env(pointmaze, actor.make_tensordict_primer()),
            actor,
            frames_per_batch=8,
            total_frames=8,
            exploration_type=ExplorationType.DETERMINISTIC,
        )
        (collected,) = list(collector)
        collector.shutdown()
        return collected

    actor, other = make_actor(), make_actor()
    other.__class__ = Elsewhere
    assert_same(collect(actor), collect(other))


@pytest.mark.slow
def test_workers_that_add_the_primer_fill_a_replay_buffer(make_actor: Build, pointmaze, single_env):
    """The actor travels to two processes, each with a real environment, and back comes data."""
    actor = make_actor().compile()
    collector = MultiSyncCollector(
        [lambda seed=seed: single_env(pointmaze, seed=seed) for seed in (0, 1)],
        actor,
        frames_per_batch=32,
        total_frames=32,
        auto_register_policy_transforms=True,
        cat_results="stack",
    )
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(64), batch_size=8)
    try:
        for data in collector:
            buffer.extend(data.reshape(-1))
    finally:
        collector.shutdown()
    del collector  # freed now: at the interpreter's end its queues could wait for ever
    gc.collect()
    sample = buffer.sample()
    assert len(buffer) == 32
    assert sample["plan", "refined"].shape == (8, actor.horizon, 6)
    stored = buffer[:]
    assert torch.isfinite(stored["action"]).all() and stored["action"].std() > 0
    # What was stored is what the actor here plans from the same inputs without noise...
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        again = actor(stored.select(*actor.in_keys))
    assert not torch.allclose(again["action"], stored["action"], atol=1e-4)  # ...but they explored
    torch.testing.assert_close(again["plan", "draft"], stored["plan", "draft"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("primer_inside", [False, True])
def test_primer_fits_the_specs_inside_and_outside_of_a_batch(
    make_actor: Build, pointmaze, single_env, primer_inside: bool
):
    actor = make_actor()
    if primer_inside:
        env = SerialEnv(2, lambda: single_env(pointmaze, actor.make_tensordict_primer()))
        env.set_seed(0)
    else:
        env = make_two(pointmaze, actor, 0)
    check_env_specs(env)
    assert env.observation_spec["planner", "plan"].shape == (2, actor.horizon, 6)
    data = rollout(env, actor, 16, break_when_any_done=False)
    # Steps count on between resets and restart at them.
    steps = data["planner", "steps"].masked_fill(data["is_init"], 0)
    assert steps[0, :, 0].tolist() == [*range(12), 0, 1, 2, 3]


@pytest.mark.parametrize("batch", [(), (1,), (5,), (2, 3)])
def test_any_batch_shape(make_actor: Build, make_step, batch: tuple[int, ...]):
    actor = make_actor()
    step = make_step(actor, batch)
    flat = make_step(actor, batch).reshape(-1)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        out, expected = actor(step), actor(flat)
    assert out["action"].shape == (*batch, 2)
    for key in actor.out_keys:
        torch.testing.assert_close(out[key].reshape(expected[key].shape), expected[key])


def test_nested_and_renamed_keys(make_actor: Build, pointmaze, single_env):
    plain = rollout(single_env(pointmaze, make_actor().make_tensordict_primer()), make_actor())
    actor = make_actor(
        in_keys=[("agent", "state"), ("agent", "wish"), "is_init"],
        out_keys=["action", ("agent", "draft"), ("agent", "plan")],
        planner_key=("agent", "memory"),
    )
    env = TransformedEnv(
        make_base_env(pointmaze),
        Compose(
            RenameTransform(["observation"], [("agent", "state")]),
            InitTracker(),
            TargetReturn(90.0, mode="reduce", out_keys=[("agent", "wish")]),
            actor.make_tensordict_primer(),
        ),
    )
    env.set_seed(0)
    renamed = rollout(env, actor)
    torch.testing.assert_close(renamed["action"], plain["action"])
    torch.testing.assert_close(renamed["agent", "plan"], plain["plan", "refined"])
    torch.testing.assert_close(
        renamed["next", "agent", "memory", "plan"], plain["next", "planner", "plan"]
    )


def test_hopper(make_actor: Build):
    """A locomotion task whose episodes end when the robot falls."""
    task = TaskConfig(name="hopper", env="Hopper-v5", max_episode_steps=50, target_return=90.0)
    actor = make_actor(11, 3)
    env = make_two(task, actor, 0)
    data = rollout(env, actor, 40, break_when_any_done=False)
    assert data["action"].shape == (2, 40, 3) and torch.isfinite(data["action"]).all()
    # The return asked for counts down by what was received, from the top at each reset.
    expected = (data["target_return"] - data["next", "reward"])[:, :-1]
    running = ~data["is_init"][:, 1:]
    torch.testing.assert_close(data["target_return"][:, 1:][running], expected[running])
    assert (data["target_return"][data["is_init"]] == 90.0).all()


def test_actions_are_clipped_to_the_environments_bounds(make_actor: Build, pointmaze, single_env):
    free = make_actor()
    with torch.no_grad():
        free.planner.inverse_dynamics.network[-1].weight.mul_(100)
    spec = single_env(pointmaze).action_spec
    bound = make_actor(action_spec=spec)
    bound.load_state_dict(
        free.state_dict() | {k: v for k, v in bound.named_buffers()}, strict=False
    )
    free_actions = rollout(single_env(pointmaze, free.make_tensordict_primer()), free, 3)["action"]
    actions = rollout(single_env(pointmaze, bound.make_tensordict_primer()), bound, 3)["action"]
    assert free_actions.abs().max() > 1
    torch.testing.assert_close(actions[0], free_actions[0].clamp(-1, 1))
    assert actions.abs().max() == 1


@pytest.mark.gpu
def test_planner_on_the_gpu_and_environment_on_the_cpu(make_actor: Build, pointmaze, single_env):
    actor = make_actor()
    expected = rollout(single_env(pointmaze, actor.make_tensordict_primer()), actor, 8)
    collector = Collector(
        single_env(pointmaze),
        make_actor().to("cuda"),
        frames_per_batch=8,
        total_frames=8,
        env_device="cpu",
        policy_device="cuda",
        storing_device="cpu",
        exploration_type=ExplorationType.DETERMINISTIC,
        auto_register_policy_transforms=True,
    )
    (collected,) = list(collector)
    collector.shutdown()
    torch.testing.assert_close(collected["action"], expected["action"], rtol=1e-3, atol=1e-3)
