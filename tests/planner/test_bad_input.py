"""Each mistake in use stops at once, in one line that says what to do."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDictBase
from torchrl.envs import TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from tests.planner.helpers import Build, act
from torchrl_td import InputError, TDPlannerActor
from torchrl_td.data import Normalizer
from torchrl_td.data.normalizer import check_floats
from torchrl_td.envs.make import make_base_env, planning_transforms


def refuse(actor: TDPlannerActor, step: TensorDictBase, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        actor(step)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_environment_without_the_primer(make_actor: Build, pointmaze):
    env = TransformedEnv(make_base_env(pointmaze), planning_transforms(90.0))
    with pytest.raises(InputError, match=r"make_tensordict_primer\(\)"):
        env.rollout(2, make_actor())


def test_environment_without_reset_flag_or_target(make_actor: Build, pointmaze):
    actor = make_actor()
    for left_out, remedy in ((0, "InitTracker"), (2, "TargetReturn")):
        transforms = planning_transforms(90.0)
        del transforms.transforms[left_out]
        env = TransformedEnv(make_base_env(pointmaze), transforms)
        env.append_transform(actor.make_tensordict_primer())
        with pytest.raises(InputError, match=remedy):
            env.rollout(2, actor)


def test_not_finite_entries_are_told_from_a_sum_that_overflows():
    high = torch.finfo(torch.float32).max
    large = torch.tensor([[high, high, -high]])
    assert torch.equal(check_floats("observation", large), large)
    for value in ([torch.inf, -torch.inf], [torch.nan, 1.0], [high, -torch.inf]):
        with pytest.raises(InputError, match="observation"):
            check_floats("observation", torch.tensor([value]))


@pytest.mark.parametrize("key", ["observation", "target_return"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan(make_actor: Build, make_step, key: str, value: float):
    actor = make_actor()
    step = make_step(actor)
    step[key][1, 0] = value
    refuse(actor, step, repr(key), "NaN or Inf")


@pytest.mark.stranger("environments")
@pytest.mark.parametrize("value", [1e38, -1e38])
def test_a_finite_observation_that_makes_the_plan_nan(make_actor: Build, make_step, value: float):
    actor = make_actor()
    step = make_step(actor)
    step["observation"][1] = value
    refuse(actor, step, "'observation' is so large")


def test_wrong_width(make_actor: Build, make_step):
    actor = make_actor()
    step = make_step(actor)
    step["observation"] = torch.randn(3, 5)
    refuse(actor, step, "'observation' has shape [3, 5]", "[3, 6]")


def test_wrong_batch(make_actor: Build, make_step):
    actor = make_actor()
    step = make_step(actor, (1,))[0]
    step["observation"] = torch.randn(4, 6)
    refuse(actor, step, "'observation' has shape [4, 6]")


def test_planner_state_of_another_horizon(make_actor: Build, make_step):
    actor = make_actor()
    step = make_step(actor)
    step["planner", "plan"] = torch.zeros(3, 16, 6)
    refuse(actor, step, "('planner', 'plan')", "[3, 16, 6]", "primer")


@pytest.mark.parametrize("settings", [{}, {"warm_start": "previous"}, {"replan_every": 2}], ids=str)
def test_a_state_that_is_not_finite(make_actor: Build, make_step, settings):
    actor = make_actor(**settings)
    for name in ("observation", "returns_to_go", "plan", "plan_returns_to_go"):
        step = make_step(actor)
        step["planner", name][1, 2] = torch.nan
        refuse(actor, step, f"('planner', '{name}')", "NaN or Inf")
        step["is_init"][1] = True  # nobody reads it
        assert torch.isfinite(actor(step)["action"]).all()
        step["planner", name][0, 2] = torch.inf
        refuse(actor, step, f"('planner', '{name}')", "NaN or Inf")


def test_wrong_noise(make_actor: Build, make_step):
    actor = make_actor()
    step = make_step(actor)
    step["planner", "noise"] = torch.zeros(3, 1, 9, 8, 6)
    refuse(actor, step, "('planner', 'noise')", "[3, 1, 9, 8, 6]")


def test_integer_observation(make_actor: Build, make_step):
    actor = make_actor()
    step = make_step(actor)
    step["observation"] = torch.zeros(3, 6, dtype=torch.int64)
    refuse(actor, step, "torch.int64", "DTypeCastTransform(torch.int64, torch.float32")


def test_reset_flag_that_is_no_flag(make_actor: Build, make_step):
    actor = make_actor()
    step = make_step(actor)
    step["is_init"] = torch.zeros(3, 1)
    refuse(actor, step, "'is_init'", "bool")


def test_double_precision_observation_plans_the_same(make_actor: Build, make_step):
    actor = make_actor()
    step = make_step(actor)
    double = step.clone()
    double["observation"] = step["observation"].double()
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        torch.testing.assert_close(actor(double)["action"], actor(step)["action"])


def test_other_device(make_actor: Build, make_step):
    """The meta device stands in for a GPU: its tensors, too, live elsewhere."""
    actor = make_actor()
    step = make_step(actor)
    for key in ("observation", "is_init", ("planner", "plan")):
        moved = step.clone()
        moved[key] = moved[key].to("meta")
        refuse(actor, moved, str(key), "meta", "policy_device")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_planner_of_another_precision(make_actor: Build, make_step, dtype: torch.dtype):
    actor = make_actor()
    step = make_step(actor)
    expected = actor(step.clone())["action"].dtype
    refuse(actor.to(dtype), step, str(dtype), "actor.float()")
    assert actor.float()(step)["action"].dtype == expected


@pytest.mark.parametrize("mode", ["none", "auto"])
def test_other_defaults_of_pytorch(make_actor: Build, make_step, mode: str):
    """Neither the default precision nor the default device is the planner's."""
    actor = make_actor(candidates=2).compile(mode)
    step = make_step(actor)
    expected = act(actor, step)["action"]
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            twin = TDPlannerActor(actor.planner, actor.normalizer).compile(mode)
            assert actor.planner_spec["plan"].dtype == torch.float32
            for _ in range(3):
                torch.testing.assert_close(act(twin, step)["action"], expected)
                assert actor(step.clone())["action"].dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_normalizer_of_another_width(make_actor: Build):
    with pytest.raises(InputError, match=r"normalizer is of 5 dimensions, the planner's states 6"):
        TDPlannerActor(make_actor().planner, Normalizer(torch.zeros(5), torch.ones(5)))


@pytest.mark.gpu
def test_other_device_cuda(make_actor: Build, make_step):
    actor = make_actor()
    refuse(actor, make_step(actor).to("cuda"), "cuda", "policy_device")
    refuse(make_actor().to("cuda"), make_step(actor), "cpu", "policy_device")


@pytest.mark.gpu
def test_nan_on_the_gpu_gives_a_nan_action_and_no_wait(make_actor: Build, make_step):
    actor = make_actor().to("cuda")
    step = make_step(make_actor()).to("cuda")
    step["observation"][1, 0] = torch.nan
    actor(step.clone())  # libraries set themselves up at the first call
    torch.cuda.set_sync_debug_mode("error")
    try:
        action = actor(step)["action"]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert action[1].isnan().all() and torch.isfinite(action[[0, 2]]).all()
