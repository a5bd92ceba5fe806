"""Entries of another shape are refused: most would broadcast to a loss that is a wrong number."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.modules import MLP

from tests.objectives.cases import A, H, O, T, each_loss, make, seeded, window
from torchrl_td.errors import InputError
from torchrl_td.modules import InverseDynamics, PlanInverseDynamics, ReturnsLimit
from torchrl_td.objectives import (
    InverseDynamicsLoss,
    PlanInverseDynamicsLoss,
    ReturnsLimitLoss,
)

# What the critic's network reads is as wide as both together, of which it cannot tell either; it
# fails by itself.
BY_THE_NETWORK = {("critic", "observation"), ("critic", "action")}
PARTS = (("plan", "reward"), ("plan", "end"), ("plan", "discount"))


def entries(name: str, loss: nn.Module, td: TensorDict) -> list:
    """Keys of all entries of a loss but the masks, with those that it computes where missing."""
    if name != "plan_value":
        return list(loss.in_keys)
    td["plan", "outcome"] = loss.outcome(td)
    td["plan", "members"] = loss.plan_value_network.members(td["observation"])
    return [*loss.in_keys, ("plan", "outcome"), ("plan", "members")]


def without_last_axis(entry: Tensor) -> Tensor:
    return entry[..., 0]


def of_width_one(entry: Tensor) -> Tensor:
    """One number in place of several, the other way round where it is one."""
    return entry[..., :1] if entry.shape[-1] > 1 else torch.cat([entry, entry], -1)


def with_one_more_axis(entry: Tensor) -> Tensor:
    return entry.unsqueeze(-2)


def of_other_rows(entry: Tensor) -> Tensor:
    return entry[:1]


CHANGES = (without_last_axis, of_width_one, with_one_more_axis, of_other_rows)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@each_loss
def test_an_entry_of_another_shape_is_named(name: str, reduction: str, change) -> None:
    _, loss, _ = make(name, reduction=reduction)
    td = window(name)
    keys = entries(name, loss, td)
    # Of two entries that differ in a batch's axes either may be wrong.
    told_apart = change in (without_last_axis, of_width_one) or len(keys) > 2
    for key in keys:
        if change is of_width_one and (name, key) in BY_THE_NETWORK:
            continue
        other = TensorDict(td.to_dict()).set(key, change(td[key]))
        if key in PARTS:  # which are not read where the outcome is known
            del other["plan", "outcome"]
        with pytest.raises(InputError, match=r"^[^\n]* is wanted[^\n]*$") as error:
            loss(other)
        assert repr(key) in str(error.value) or not told_apart, str(error.value)


@each_loss
def test_one_window_and_any_batch_size_are_taken(name: str) -> None:
    """A tensordict's own batch size says nothing of its entries' axes."""
    key, loss, _ = make(name)
    td = window(name)
    want = seeded(loss, td)[key]
    assert torch.equal(seeded(loss, TensorDict(td.to_dict()))[key], want)


@pytest.mark.parametrize("name", ["generator", "critic", "plan_value"])
def test_a_missing_axis_is_no_other_number_of_steps(name: str) -> None:
    """As many rows as steps, which broadcast without an error whatever the reduction."""
    _, loss, _ = make(name)
    td = TensorDict(torch.cat([window(name)] * 3)[:T].to_dict())
    key = ("plan", "reward") if name == "plan_value" else "returns_to_go"
    td[key] = td[key].squeeze(-1)
    with pytest.raises(InputError, match=rf"has shape \[{T}, {T}\], where \[{T}, {T}, 1\]"):
        loss(td)


def test_a_network_with_a_way_of_its_own_says_no_width() -> None:
    """Its first layer may read a part of the state."""

    class OfTheFirst(MLP):
        def forward(self, state: Tensor) -> Tensor:
            return super().forward(state[..., :1])

    loss = ReturnsLimitLoss(ReturnsLimit(OfTheFirst(1, 1, num_cells=(8,))))
    loss(TensorDict(observation=torch.randn(4, O), returns_to_go=torch.rand(4, 1)))


@pytest.mark.parametrize("kind", ["pair", "plan"])
def test_actions_are_as_wide_as_predicted_whatever_the_network(kind: str) -> None:
    """A network that ends with an activation does not tell its width before it has run."""
    states = 2 * O if kind == "pair" else O + 2 * O + 1
    network = nn.Sequential(MLP(states, A, num_cells=(8,)), nn.Tanh())
    action, observation = torch.rand(4, 1), torch.randn(4, O)
    if kind == "pair":
        pair = nn.Module()
        pair.network = network
        pair.forward = lambda *two: network(torch.cat(two, -1))
        loss = InverseDynamicsLoss(InverseDynamics(pair))
        batch = TensorDict(observation=observation, next={"observation": observation})
    else:
        loss = PlanInverseDynamicsLoss(PlanInverseDynamics(network, torch.ones(H, O)))
        batch = TensorDict(plan={"draft": torch.randn(4, H, O)}, condition=action)
    with pytest.raises(InputError, match=r"'action' has shape \[4, 1\], where \[4, 2\] is wanted"):
        loss(batch.set("action", action))
    loss(batch.set("action", action.expand(-1, A)))
