"""The coordinates in which the refiner adds and removes noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchrl_td.errors import InputError


class PlanCoordinates(nn.Module):
    """Maps a plan of normalised states to the space the diffusion runs in, and back.

    Without a scale, as in the paper, that is the plan itself. There σ = 0.083 at k = 5 can be
    several times what a state changes by in one step, so refining drowns the very difference
    the inverse dynamics reads. With a scale, position j > 0 holds the displacement from the
    present state in units of its root mean square at that lag, and the noise is small
    beside the change at *every* position. Position 0 always holds the present state.

    Args:
        scale: root mean square of s_{t+j} − s_t, shape [H, O] (see
            :func:`~torchrl_td.data.normalizer.displacement_scale`), 0 for constant dimensions;
            ``None`` for the paper's coordinates.

    Raises:
        InputError: if ``scale`` is not a matrix.

    Examples:
        >>> import torch
        >>> from torchrl_td.modules import PlanCoordinates
        >>> plan = torch.tensor([[[1.0], [1.5], [2.0]]])
        >>> PlanCoordinates(torch.tensor([[0.0], [0.5], [1.0]])).encode(plan).flatten()
        tensor([1., 1., 1.])
    """

    scale: Tensor | None

    def __init__(self, scale: Tensor | None = None) -> None:
        super().__init__()
        if scale is not None and scale.ndim != 2:
            raise InputError(f"the scale must have shape [H, O], got {list(scale.shape)}")
        self.register_buffer("scale", None if scale is None else scale.float())

    def encode(self, plan: Tensor) -> Tensor:
        """Plan [B, H, O] of normalised states -> coordinates [B, H, O]."""
        if self.scale is None:
            return plan
        present = plan[:, :1]
        # Taken from the scale each time: a copy kept beside it would outlive a loaded checkpoint.
        inverse = torch.where(self.scale > 0, 1 / self.scale.clamp(min=1e-12), 0.0)[1:]
        return torch.cat([present, (plan[:, 1:] - present) * inverse], 1)

    def decode(self, x: Tensor) -> Tensor:
        """Coordinates [B, H, O] -> plan [B, H, O] of normalised states."""
        if self.scale is None:
            return x
        present = x[:, :1]
        return torch.cat([present, present + x[:, 1:] * self.scale[1:]], 1)
