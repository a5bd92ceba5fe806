"""The actor as TorchRL's own: spec, selected and unwritten keys, tensors, export and vmap."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.data import Bounded, OneHot
from torchrl.envs import GymEnv, SerialEnv, TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from tests.tiny import HORIZON, tiny_actor
from torchrl_td import InputError, TDPlannerActor
from torchrl_td.actors.specs import PlannerPrimer
from torchrl_td.envs import planning_transforms

BOUNDS = Bounded(torch.tensor([-0.5, -1.0]), torch.tensor([0.5, 2.0]))


def inputs(actor: TDPlannerActor, *batch: int) -> TensorDict:
    return TensorDict(
        observation=torch.randn(*batch, 6),
        target_return=torch.full((*batch, 1), 90.0),
        is_init=torch.ones(*batch, 1, dtype=torch.bool),
        planner=actor.planner_spec.zero(batch),
        batch_size=batch,
    )


def act(actor: TDPlannerActor, td: TensorDict) -> TensorDict:
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        return actor(td)


def test_spec_is_of_what_it_writes() -> None:
    actor = tiny_actor(action_spec=BOUNDS)
    spec, out = actor.spec, act(actor, inputs(actor))
    assert set(spec.keys(True, True)) == set(actor.out_keys)
    known = {key for key in spec.keys(True, True) if spec[key] is not None}
    assert known == {"action", ("plan", "draft"), ("plan", "refined")}
    for key in known:
        assert spec[key].is_in(out[key]), key
    assert torch.equal(spec["action"].space.low, BOUNDS.space.low)
    assert tiny_actor(out_keys=["move"]).spec["move"].shape == (2,)  # known without bounds


def test_it_draws_noise_where_exploration_is_asked_for() -> None:
    """A rollout outside any context acts as evaluation does."""
    actor = tiny_actor()
    td = inputs(actor, 3)
    assert torch.equal(actor(td.clone())["action"], act(actor, td.clone())["action"])
    with set_exploration_type(ExplorationType.RANDOM):
        assert not torch.equal(actor(td.clone())["action"], actor(td.clone())["action"])


def test_a_random_action() -> None:
    actor = tiny_actor(action_spec=BOUNDS)
    td = actor.random_sample(inputs(actor, 50))
    assert BOUNDS.expand(50, 2).is_in(td["action"]) and td["action"].std() > 0.1


@pytest.mark.parametrize("out_keys", [["action"], ["action", "_", "_"]])
def test_outputs_that_are_not_written(out_keys: list[str]) -> None:
    actor, plain = tiny_actor(out_keys=out_keys), tiny_actor()
    td = inputs(actor, 3)
    out, want = act(actor, td.clone()), act(plain, td)
    assert torch.equal(out["action"], want["action"])
    assert "plan" not in out.keys() and "_" not in out.keys()
    assert torch.equal(out["next", "planner", "plan"], want["next", "planner", "plan"])
    other = tiny_actor(out_keys=["_", "_", ("plan", "refined")])
    assert torch.equal(
        act(other, inputs(other, 3).update(td.select(*other.in_keys)))["plan", "refined"],
        want["plan", "refined"],
    )


def test_selected_keys_keep_the_planners_state() -> None:
    """Without it the next step would plan as if there had been none before."""
    actor = tiny_actor()
    actor.select_out_keys("action")
    out = act(actor, inputs(actor, 3))
    assert "plan" not in out.keys()
    assert (out["next", "planner", "steps"] == 1).all()
    actor.reset_out_keys()
    assert "plan" in act(actor, inputs(actor, 3)).keys()


def test_tensors_by_keyword() -> None:
    actor = tiny_actor()
    td = inputs(actor, 2)
    names = {key: key if isinstance(key, str) else "_".join(key) for key in actor.in_keys}
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        out = actor(**{name: td[key] for key, name in names.items()})
    want = act(actor, td)
    for key, value in zip(actor.out_keys, out, strict=True):
        assert torch.equal(value, want[key])


def test_it_exports() -> None:
    actor = tiny_actor(out_keys=["action"])
    td = inputs(actor, 2)
    given = {key if isinstance(key, str) else "_".join(key): td[key] for key in actor.in_keys}
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        program = torch.export.export(actor, args=(), kwargs=given)
    action, *_ = program.module()(**given)
    assert torch.allclose(action, act(actor, td)["action"], atol=1e-5)


def test_under_vmap() -> None:
    actor = tiny_actor()
    td = inputs(actor, 3)
    want = act(actor, td.clone())
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        out = torch.vmap(actor)(td)
    assert torch.allclose(out["action"], want["action"], atol=1e-5)
    assert torch.allclose(
        out["next", "planner", "plan"], want["next", "planner", "plan"], atol=1e-5
    )


def test_an_environment_of_choices_is_refused() -> None:
    """Its action would be read off plans of real numbers without a word."""
    actor = tiny_actor(4, 2)
    env = TransformedEnv(GymEnv("CartPole-v1"), planning_transforms(100.0))
    env.append_transform(actor.make_tensordict_primer())
    with pytest.raises(InputError, match="'action' is a OneHot"):
        env.rollout(3, actor)
    env = TransformedEnv(GymEnv("Pendulum-v1"), planning_transforms(100.0))
    actor = tiny_actor(3, 1)
    env.append_transform(actor.make_tensordict_primer())
    assert env.rollout(3, actor)["planner", "plan"].shape == (3, HORIZON, 3)


def test_an_environment_of_fewer_actions_is_refused() -> None:
    """It would take the first of them without a word."""
    actor = tiny_actor(3, 2)
    for make in (
        lambda: GymEnv("Pendulum-v1"),
        lambda: SerialEnv(2, lambda: GymEnv("Pendulum-v1")),
    ):
        env = TransformedEnv(make(), planning_transforms(100.0))
        env.append_transform(actor.make_tensordict_primer())
        with pytest.raises(InputError, match=r"'action' has 1 numbers, .* have 2: it was trained"):
            env.rollout(3, actor)


def test_an_environment_of_other_choices_is_refused() -> None:
    primer = PlannerPrimer("action", {}, OneHot(3))
    env = TransformedEnv(GymEnv("CartPole-v1"), primer)
    with pytest.raises(InputError, match="'action' is one of 2 choices, not of 3"):
        env.rollout(3)


def test_a_collector_that_limits_episodes() -> None:
    """Its limit is a step counter, of which there may be one only."""
    actor = tiny_actor(3, 1)
    env = TransformedEnv(GymEnv("Pendulum-v1"), planning_transforms(100.0))
    collector = Collector(
        env,
        actor,
        frames_per_batch=12,
        total_frames=12,
        max_frames_per_traj=5,
        auto_register_policy_transforms=True,
    )
    try:
        (data,) = collector
    finally:
        collector.shutdown()
    assert data["next", "truncated"].flatten().nonzero().flatten().tolist() == [4, 9]
    assert data["is_init"].flatten().nonzero().flatten().tolist() == [0, 5, 10]
