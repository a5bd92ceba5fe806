"""The value of states against closed forms, and the outcomes of plans against plain sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import nn
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.objectives.value.functional import reward2go

from torchrl_td.data import WindowSampler
from torchrl_td.errors import InputError
from torchrl_td.modules import PlanValue
from torchrl_td.objectives import PlanValueLoss
from torchrl_td.training.value_guided import outcome_parts


class Table(nn.Module):
    """Three numbers for each of some states, which are given one-hot."""

    def __init__(self, states: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(states, 3))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return observation @ self.weight


def outcomes(rewards: list[float], repeats: int) -> TensorDict:
    """Plans from one state that end there with these rewards and no value after them."""
    reward = torch.tensor(rewards).repeat(repeats).unsqueeze(-1)
    one = torch.ones_like(reward)
    plan = TensorDict(reward=reward, end=one, discount=0 * one, batch_size=[len(reward)])
    return TensorDict(observation=one, plan=plan, batch_size=[len(reward)])


def check_learned(plan_value: PlanValue, expectile: float, expected: float) -> None:
    """Of outcomes 0, 0 and 3 the value becomes what is expected, and scores are standard."""
    loss = PlanValueLoss(plan_value, expectile=expectile)
    batch = outcomes([0.0, 0.0, 3.0], 1)
    optimizer = torch.optim.Adam(plan_value.parameters(), 0.05)
    for _ in range(600):
        optimizer.zero_grad()
        loss(batch)["loss_plan_value"].backward()
        optimizer.step()
    state = torch.ones(1, 1)
    torch.testing.assert_close(plan_value.value(state).item(), expected, atol=0.01, rtol=0)
    # The mean is 1, the geometric mean of the errors 1, 1 and 2 is 2^(1/3).
    spread = 1.887 * 2 ** (1 / 3)
    score = plan_value.score(state, torch.tensor([[3.0]]))
    torch.testing.assert_close(score.item(), 2 / spread, atol=0.02, rtol=0)


@pytest.mark.parametrize(("expectile", "value"), [(0.5, 1.0), (0.9, 0.9 * 3 / (0.9 + 0.2))])
def test_the_value_is_the_expectile_and_scores_are_standard(expectile: float, value: float) -> None:
    """Of 0, 0 and 3 the 0.9-expectile e solves 0.9 (3 - e) = 2 * 0.1 e."""
    check_learned(PlanValue(Table(1), limit=100.0), expectile, value)


def test_a_value_said_as_its_logarithm_has_both_errors() -> None:
    """Of 0, 0 and 3, by the smallest of the two errors' sum among many values."""
    value = np.linspace(0, 3, 30_001)
    above = (3 - value) ** 2 + (np.log(7) - np.log1p(value / 0.5)) ** 2
    below = value**2 + np.log1p(value / 0.5) ** 2
    expected = float(value[np.argmin(0.9 * above + 2 * 0.1 * below)])
    check_learned(PlanValue(Table(1), limit=100.0, symlog_unit=0.5), 0.9, expected)


def test_the_value_joins_episodes_that_meet() -> None:
    """From state 0 no episode reaches the reward, but one that leaves state 1 does."""
    start, end = torch.eye(3)[[0, 1, 1]], torch.eye(3)[[1, 2, 0]]
    plan = TensorDict(
        reward=torch.tensor([[0.0], [1.0], [0.0]]),
        end=end,
        discount=torch.tensor([[0.9], [0.0], [0.9]]),
        batch_size=[3],
    )
    batch = TensorDict(observation=start, plan=plan, batch_size=[3])
    plan_value = PlanValue(Table(3))
    loss = PlanValueLoss(plan_value, expectile=0.999)
    optimizer = torch.optim.Adam(plan_value.parameters(), 0.02)
    for _ in range(800):
        optimizer.zero_grad()
        loss(batch)["loss_plan_value"].backward()
        optimizer.step()
        loss.target_plan_value_network_params.data.lerp_(loss.plan_value_network_params.data, 0.1)
    values = plan_value.value(torch.eye(3)[:2]).flatten()
    torch.testing.assert_close(values, torch.tensor([0.9, 1.0]), atol=0.03, rtol=0)


def test_an_expectile_that_is_none() -> None:
    with pytest.raises(InputError, match="expectile"):
        PlanValueLoss(PlanValue(Table(1)), expectile=1.0)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    horizon=st.integers(2, 4),
    stride=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_outcomes_are_the_plans_rewards_and_the_value_of_their_ends(
    lengths: list[int], horizon: int, stride: int, seed: int
) -> None:
    lengths = [*lengths, 10]  # one holds a whole plan
    discount, count = 0.9, sum(lengths)
    torch.manual_seed(seed)
    episode = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    done = torch.cat([episode[1:] != episode[:-1], torch.ones(1, dtype=torch.bool)]).unsqueeze(-1)
    terminates = (torch.rand(len(lengths)) < 0.5)[episode].float().unsqueeze(-1)
    reward, observation = torch.rand(count, 1), torch.randn(count, 2)
    data = TensorDict(
        observation=observation,
        episode=episode,
        discounted_to_go=reward2go(reward, done, discount),
        terminates=terminates,
        batch_size=[count],
    )
    sampler = WindowSampler(horizon, 1, stride=stride)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(count), sampler=sampler, batch_size=16
    )
    buffer.extend(data)
    batch = buffer.sample()
    parts = outcome_parts(batch, discount)
    for row in range(16):
        start = int(batch["index"][row, 0])
        number = int(episode[start])
        last = sum(lengths[: number + 1]) - 1
        end = start + (horizon - 1) * stride
        terminated = end > last and bool(terminates[start])
        stop = last + 1 if terminated else min(end, last)
        total = sum(discount ** (t - start) * float(reward[t]) for t in range(start, stop))
        factor = 0.0 if terminated else discount ** (min(end, last) - start)
        assert parts["plan", "reward"][row].item() == pytest.approx(total, abs=1e-5)
        assert parts["plan", "discount"][row].item() == pytest.approx(factor, abs=1e-6)
        torch.testing.assert_close(parts["plan", "end"][row], observation[min(end, last)])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_from_plans_that_are_not_scored_the_value_alone_learns(reduction: str) -> None:
    """The sum of two losses: that of the scored plans, and the value's error of the others."""
    torch.manual_seed(0)
    loss = PlanValueLoss(PlanValue(Table(1)), reduction=reduction)
    torch.nn.init.normal_(loss.plan_value_network_params.get(("network", "weight")))
    scored, others = outcomes([0.0, 0.0, 3.0], 2), outcomes([1.0, 5.0], 1)
    both = torch.cat([scored, others])
    both["plan", "scored"] = torch.arange(len(both)) < len(scored)
    alone, rest = loss(scored), loss(others)
    expected = alone["loss_plan_value"] + rest["value_error"]
    torch.testing.assert_close(loss(both)["loss_plan_value"], expected)
    both["plan", "scored"] = torch.ones(len(both), dtype=torch.bool)
    torch.testing.assert_close(
        loss(both)["loss_plan_value"], loss(both.exclude(("plan", "scored")))["loss_plan_value"]
    )


def test_outcomes_that_are_known_are_not_computed_anew() -> None:
    loss = PlanValueLoss(PlanValue(Table(3)))
    batch = TensorDict(
        observation=torch.eye(3),
        plan=TensorDict(
            reward=torch.randn(3, 1), end=torch.eye(3), discount=torch.rand(3, 1), batch_size=[3]
        ),
        batch_size=[3],
    )
    computed = loss(batch)["loss_plan_value"]
    batch["plan", "outcome"] = loss.outcome(batch)
    assert torch.equal(loss(batch)["loss_plan_value"], computed)
    batch["plan", "outcome"] += 1.0
    assert not torch.equal(loss(batch)["loss_plan_value"], computed)
