"""Convolutions over a plan's few positions.

Where packed weights are active, large convolutions are oneDNN's own, and small ones, for which
those take long to set up, are one matrix product of their windows. So are those deep in the
U-Net, where a plan has 1 or 2 positions, and many taps of a kernel of 5 meet only padding: their
weights are not even packed, so that a plan at batch 1 does not wait for them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchrl_td.inference.packed_weights import active_weights

_LARGE = 2**20  # positions times weights from which oneDNN's convolution is the faster way


class TemporalConv(nn.Conv1d):
    """1-D convolution with "same" padding (stride 1) or halving (stride 2)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2
        )

    def forward(self, x: Tensor) -> Tensor:  # [B, C, T] -> [B, C', T / stride]
        packed = active_weights()
        if packed is None:
            return super().forward(x)
        # Taps that reach further never meet data.
        reach = min(self.kernel_size[0] // 2, x.shape[2] - 1)
        if reach == self.padding[0] and x.shape[0] * x.shape[2] * self.weight.numel() >= _LARGE:
            return packed.convolution(x, self)
        windows = _windows(x.transpose(1, 2), reach, self.stride[0])  # [B, T / stride, taps · C]
        return packed.product(windows, self, self._matrix, self.bias, reach).transpose(1, 2)

    def _matrix(self, reach: int) -> Tensor:
        """The weights on a window of ``2 · reach + 1`` positions, [C', taps · C]."""
        middle = self.kernel_size[0] // 2
        taps = self.weight[:, :, middle - reach : middle + reach + 1]
        return taps.transpose(1, 2).flatten(1)


class TemporalUpsample(nn.ConvTranspose1d):
    """Transposed convolution of kernel 4 and stride 2, which doubles the length."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        packed = active_weights()
        if packed is None:
            return super().forward(x, output_size)
        windows = _windows(x.transpose(1, 2), 1, 1)  # [B, T, 3 · C]
        out = packed.product(windows, self, self._matrix, None)
        out = out.unflatten(2, (2, -1)).flatten(1, 2)  # [B, 2 · T, C]
        return (out + self.bias).transpose(1, 2)

    def _matrix(self, variant: int) -> Tensor:
        """The even and the odd outputs' weights on the window (t − 1, t, t + 1)."""
        tap = self.weight.permute(2, 1, 0)  # [4, C', C]
        nothing = torch.zeros_like(tap[0])
        even = torch.cat([tap[3], tap[1], nothing], 1)
        odd = torch.cat([nothing, tap[2], tap[0]], 1)
        return torch.cat([even, odd])  # [2 · C', 3 · C]


class PointwiseConv(nn.Conv1d):
    """Convolution of kernel 1: a linear map of each position."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, T] -> [B, C', T]
        packed = active_weights()
        if packed is None:
            return super().forward(x)
        return packed.product(x.transpose(1, 2), self, self._matrix, self.bias).transpose(1, 2)

    def _matrix(self, variant: int) -> Tensor:
        return self.weight.squeeze(2)


def _windows(x: Tensor, reach: int, stride: int) -> Tensor:
    """The ``2 · reach + 1`` rows around every ``stride``-th of x [B, T, C], side by side."""
    batch, length, channels = x.shape
    # Rows lie one after the other, so a window is a stretch of memory and nothing is copied.
    padding = torch.zeros(batch, reach, channels, dtype=x.dtype, device=x.device)
    padded = torch.cat([padding, x, padding], 1)
    return padded.as_strided(
        (batch, (length + stride - 1) // stride, (2 * reach + 1) * channels),
        ((length + 2 * reach) * channels, stride * channels, 1),
    )
