"""The parts that plan at once: composed, of any batch shape, and where a scale is nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torchrl.modules import MLP

from torchrl_td.errors import InputError
from torchrl_td.modules import (
    DiffusionRefiner,
    NoiseSchedule,
    PlanGenerator,
    PlanInverseDynamics,
    PlanValue,
)
from torchrl_td.networks import PlanDenoiser

SCALE = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])  # [H, O]: one is constant


def parts() -> TensorDictSequential:
    return TensorDictSequential(
        PlanGenerator(MLP(2 + 1, 3 * 2, num_cells=[8]), SCALE),
        DiffusionRefiner(PlanDenoiser(2, 4, (8,)), NoiseSchedule(), refine_steps=2),
        PlanInverseDynamics(MLP(2 + 2 * 2 + 1, 1, num_cells=[8]), SCALE),
    )


def test_they_compose_and_plan_for_any_batch() -> None:
    sequence = parts()
    for batch in ([], [3], [2, 3]):
        td = TensorDict(
            observation=torch.randn(*batch, 2),
            returns_to_go=torch.ones(*batch, 1),
            batch_size=batch,
        )
        td = sequence(td)
        assert td["action"].shape == (*batch, 1)
        assert td["plan", "refined"].shape == (*batch, 4, 2)


def test_a_constant_dimension_stays_and_is_not_read() -> None:
    generator, _, inverse_dynamics = parts().module
    present, condition = torch.randn(5, 2), torch.ones(5, 1)
    draft = generator.draft(present, condition)
    assert torch.equal(draft[:, :, 1], present[:, 1:].expand(-1, 4))
    other = draft.clone()
    other[:, 1:, 1] += 100.0
    actions = (inverse_dynamics.act_on(plan, condition) for plan in (draft, other))
    torch.testing.assert_close(*actions)


def test_a_dropped_condition_says_nothing() -> None:
    network = PlanDenoiser(2, 4, (8,))
    plan, step = torch.randn(3, 4, 2), torch.tensor([1, 2, 3])
    dropped = torch.zeros(3, dtype=torch.bool)
    low, high = (network(plan, step, c * torch.ones(3, 1), dropped) for c in (-2.0, 2.0))
    assert torch.equal(low, high)
    assert not torch.equal(network(plan, step, torch.ones(3, 1)), high)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"combine": "max"}, "unknown combine 'max'; allowed are lowest, mean"),
        ({"symlog_unit": 0.0}, r"symlog_unit must be positive, got 0\.0"),
    ],
)
def test_wrong_settings_of_a_value(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        PlanValue(MLP(2, 3, num_cells=[8]), **settings)


def test_no_more_states_are_read_than_are_planned() -> None:
    with pytest.raises(InputError, match=r"plan_states must lie in 1\.\.3, got 4"):
        PlanInverseDynamics(MLP(9, 2, num_cells=[8]), torch.ones(4, 2), plan_states=4)


def test_scores_are_limited() -> None:
    value = PlanValue(MLP(2, 3, num_cells=[8]), limit=4.0)
    score = value.score(torch.randn(6, 2), torch.tensor([[-1e6], [1e6]]).repeat(3, 1))
    assert score.flatten().tolist() == [-4.0, 4.0] * 3


@given(value=st.floats(-100, 100), unit=st.floats(0.01, 10))
def test_a_logarithmic_value_is_read_as_it_was_written(value: float, unit: float) -> None:
    plan_value = PlanValue(torch.nn.Linear(1, 3), symlog_unit=unit)
    learned = plan_value.logarithm(torch.tensor(value))
    expected = math.copysign(math.log1p(abs(value) / unit), value)
    torch.testing.assert_close(learned.item(), expected, atol=1e-5, rtol=1e-5)
    torch.nn.init.zeros_(plan_value.network.weight)
    torch.nn.init.constant_(plan_value.network.bias, learned.item())
    read = plan_value.value(torch.randn(4, 1))
    torch.testing.assert_close(read, torch.full_like(read, value), atol=1e-5, rtol=1e-4)
