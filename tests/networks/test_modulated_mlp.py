"""The MLP that a condition modulates."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchrl.modules import MLP

from torchrl_td.errors import InputError
from torchrl_td.networks import ModulatedMLP


def test_a_condition_scales_and_shifts_every_layer() -> None:
    """At one condition it is a plain MLP whose weights and biases the modulation has changed."""
    network = ModulatedMLP(3 + 1, 2, num_cells=[5, 7])
    x, condition = torch.randn(11, 3), torch.tensor([[0.7]])
    scale1, shift1, scale2, shift2 = network.modulation(condition)[0].split([5, 5, 7, 7])
    plain = MLP(3, 2, num_cells=[5, 7], activation_class=nn.ReLU)
    first, second = network.layers
    plain.load_state_dict(
        {
            "0.weight": first.weight * (1 + scale1).unsqueeze(-1),
            "0.bias": first.bias * (1 + scale1) + shift1,
            "2.weight": second.weight * (1 + scale2).unsqueeze(-1),
            "2.bias": second.bias * (1 + scale2) + shift2,
            "4.weight": network.output.weight,
            "4.bias": network.output.bias,
        }
    )
    torch.testing.assert_close(network(x, condition.expand(11, 1)), plain(x))


def test_inputs_come_together_or_apart_in_any_batch_shape() -> None:
    network = ModulatedMLP(3 + 1, 2, num_cells=[5])
    x = torch.randn(4, 6, 3 + 1)
    torch.testing.assert_close(network(x), network(x[..., :3], x[..., 3:]))
    torch.testing.assert_close(network(x)[2, 5], network(x[2, 5]))
    assert network(x[:0]).shape == (0, 6, 2)


def test_without_a_layer_there_is_nothing_to_modulate() -> None:
    with pytest.raises(InputError, match="needs a layer to scale and shift; give hidden_dims one"):
        ModulatedMLP(3 + 1, 2, num_cells=[])
