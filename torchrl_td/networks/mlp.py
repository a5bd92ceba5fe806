"""Inverse dynamics and critic networks: plain multilayer perceptrons."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchrl_td.inference.packed_weights import Linear


class MLP(nn.Sequential):
    """Fully connected layers with ReLU between them; the inputs are concatenated.

    Args:
        in_dim: total width of the inputs.
        hidden_dims: widths of the hidden layers.
        out_dim: width of the output.

    Examples:
        >>> import torch
        >>> from torchrl_td.networks import MLP
        >>> MLP(4, (32, 32), 2)(torch.randn(8, 3), torch.randn(8, 1)).shape
        torch.Size([8, 2])
    """

    def __init__(self, in_dim: int, hidden_dims: tuple[int, ...], out_dim: int) -> None:
        layers: list[nn.Module] = []
        for width in hidden_dims:
            layers += [Linear(in_dim, width), nn.ReLU()]
            in_dim = width
        super().__init__(*layers, Linear(in_dim, out_dim))

    def forward(self, *inputs: Tensor) -> Tensor:
        return super().forward(torch.cat(inputs, -1))
