"""An MLP whose layers one of its inputs scales and shifts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchrl_td.errors import InputError


class ModulatedMLP(nn.Module):
    """An MLP whose ReLU layers are scaled and shifted by its last input, the condition.

    FiLM (`arXiv 1709.07871 <https://arxiv.org/abs/1709.07871>`_). A condition that is one more
    number among a state's has to bend what all conditions share; here each has weights of its own
    on the same features.

    Args:
        in_features: D + 1, of which the last is the condition.
        out_features: numbers that come out.
        num_cells: widths of the ReLU layers.
        embedding_dim: width of the layer between the condition and the scales and shifts.

    Raises:
        InputError: if there is no layer that could be modulated.

    Examples:
        >>> import torch
        >>> from torchrl_td.networks import ModulatedMLP
        >>> network = ModulatedMLP(3 + 1, 2, num_cells=[32, 32])
        >>> network(torch.randn(5, 3 + 1)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        num_cells: Sequence[int] = (256, 256),
        embedding_dim: int = 64,
    ) -> None:
        super().__init__()
        if not num_cells:
            raise InputError("a condition needs a layer to scale and shift; give hidden_dims one")
        self.in_features = in_features
        widths = itertools.pairwise([in_features - 1, *num_cells])
        self.layers = nn.ModuleList(nn.Linear(width, out) for width, out in widths)
        # Of each layer its scales and its shifts, which follow one another.
        self.sizes = [size for size in num_cells for _ in range(2)]
        self.modulation = nn.Sequential(
            nn.Linear(1, embedding_dim), nn.ReLU(), nn.Linear(embedding_dim, sum(self.sizes))
        )
        self.output = nn.Linear(num_cells[-1], out_features)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The outputs [..., out_features].

        Args:
            *inputs: [..., D + 1] together, the condition last.
        """
        x = torch.cat(inputs, -1)
        x, condition = x[..., :-1], x[..., -1:]
        modulation = self._parts(self.modulation(condition))
        for layer, scale, shift in zip(self.layers, modulation[::2], modulation[1::2], strict=True):
            x = torch.relu(layer(x) * (1 + scale) + shift)
        return self.output(x)

    def _parts(self, modulation: Tensor) -> Sequence[Tensor]:
        """Scales and shifts [..., width] of the layers in turn."""
        if not torch.compiler.is_exporting():
            return modulation.split(self.sizes, -1)
        # As copies: OpenVINO 2026.4 crashes where it multiplies rows of a view in bfloat16.
        columns = torch.arange(sum(self.sizes), device=modulation.device).split(self.sizes)
        return [modulation.index_select(-1, column) for column in columns]
