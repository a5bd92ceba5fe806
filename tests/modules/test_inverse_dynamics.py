"""Inverse dynamics and critic."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torchrl.modules import MLP

from torchrl_td.modules import InverseDynamics, PlanCritic


def test_reads_two_states() -> None:
    network = MLP(6, 2, num_cells=(8,))
    a, b = torch.randn(4, 5, 3), torch.randn(4, 5, 3)
    want = network(torch.cat([a, b], -1))
    assert torch.equal(InverseDynamics(network).act(a, b), want)


def test_reads_a_state_and_its_change() -> None:
    network = MLP(6, 2, num_cells=(8,))
    scale = torch.tensor([0.5, 0.0, 2.0])
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    change = (b - a) / torch.tensor([0.5, 1.0, 2.0]) * torch.tensor([1.0, 0.0, 1.0])
    want = network(torch.cat([a, change], -1))
    inverse_dynamics = InverseDynamics(network, change_scale=scale)
    assert torch.allclose(inverse_dynamics.act(a, b), want, atol=1e-6)
    b[:, 1] += 1  # a dimension that is constant in the data says nothing
    assert torch.allclose(inverse_dynamics.act(a, b), want, atol=1e-6)


def test_keys_are_those_of_torchrl_and_can_be_renamed() -> None:
    network = MLP(6, 2, num_cells=(8,))
    td = TensorDict(
        observation=torch.randn(4, 3),
        next=TensorDict(observation=torch.randn(4, 3), batch_size=[4]),
        batch_size=[4],
    )
    want = network(td["observation"], td["next", "observation"])
    assert torch.equal(InverseDynamics(network)(td.clone())["action"], want)
    renamed = InverseDynamics(network, in_keys=["now", ("deep", "then")], out_keys=[("a", "b")])
    moved = TensorDict(
        {"now": td["observation"], ("deep", "then"): td["next", "observation"]}, batch_size=[4]
    )
    assert torch.equal(renamed(moved)["a", "b"], want)


def test_critic() -> None:
    network = MLP(5, 1, num_cells=(8,))
    critic = PlanCritic(network, out_keys=["value"])
    td = TensorDict(observation=torch.randn(4, 3), action=torch.randn(4, 2), batch_size=[4])
    want = network(torch.cat([td["observation"], td["action"]], -1))
    assert torch.equal(critic(td)["value"], want)
