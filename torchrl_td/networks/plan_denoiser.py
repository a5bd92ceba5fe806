"""A denoiser of short plans: one MLP over all of their states."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn


class PlanDenoiser(nn.Module):
    """Predicts the noise in a plan from all of its states at once.

    A plan of a few strided states is too short for a U-Net's levels to pay: this takes a tenth of
    its time, and every state sees every other.

    Args:
        observation_dim: O.
        horizon: H.
        hidden_dims: widths of the ReLU layers.
        embedding_dim: of the denoising step's sines and cosines; even.

    Examples:
        >>> import torch
        >>> from torchrl_td.networks import PlanDenoiser
        >>> network = PlanDenoiser(observation_dim=3, horizon=8, hidden_dims=(32,))
        >>> step, condition = torch.tensor([1, 5]), torch.ones(2, 1)
        >>> network(torch.randn(2, 8, 3), step, condition).shape
        torch.Size([2, 8, 3])
    """

    horizon_multiple = 1
    frequencies: Tensor

    def __init__(
        self,
        observation_dim: int,
        horizon: int,
        hidden_dims: tuple[int, ...] = (256, 256),
        embedding_dim: int = 16,
    ) -> None:
        super().__init__()
        self.observation_dim = observation_dim
        half = embedding_dim // 2
        exponent = torch.arange(half, dtype=torch.float32) / max(half - 1, 1)
        self.register_buffer("frequencies", torch.exp(-math.log(100.0) * exponent))
        size = horizon * observation_dim
        widths = (size + 2 * half + 2, *hidden_dims)
        layers: list[nn.Module] = []
        for width, out in itertools.pairwise(widths):
            layers += [nn.Linear(width, out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], size))

    def forward(
        self, x: Tensor, step: Tensor, condition: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        """The noise predicted.

        Args:
            x: noisy plans, shape [B, H, O].
            step: denoising steps, shape [B].
            condition: shape [B, 1].
            keep: bool [B], False where the condition is dropped; ``None`` keeps all.

        Returns:
            Shape [B, H, O].
        """
        kept = torch.ones_like(condition) if keep is None else keep.unsqueeze(-1).to(x.dtype)
        angle = step.to(x.dtype).unsqueeze(-1) * self.frequencies  # [B, E / 2]
        inputs = [x.flatten(1), angle.sin(), angle.cos(), condition * kept, kept]
        return self.layers(torch.cat(inputs, -1)).view_as(x)
