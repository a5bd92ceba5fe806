"""The temporal U-Net that predicts the noise in a plan (Janner et al. 2022; paper A.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchrl_td.errors import InputError


class ConvBlock(nn.Module):
    """Convolution, group norm, Mish."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        self.norm = nn.GroupNorm(groups, out_channels)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, T] -> [B, C', T]
        return F.mish(self.norm(self.conv(x)))


class ResidualBlock(nn.Module):
    """Two convolutions; the step and condition embedding is added after the first."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_dim: int,
        kernel_size: int,
        groups: int,
    ) -> None:
        super().__init__()
        self.first = ConvBlock(in_channels, out_channels, kernel_size, groups)
        self.second = ConvBlock(out_channels, out_channels, kernel_size, groups)
        self.embedding = nn.Linear(embedding_dim, out_channels)
        self.skip = (
            nn.Conv1d(in_channels, out_channels, 1)
            if in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x is [B, C, T]; embedding is [B, C', 1], what this block adds to every position."""
        hidden = self.first(x) + embedding
        return self.second(hidden) + self.skip(x)


class TemporalUNet(nn.Module):
    """Predicts the noise in a plan from the noisy plan, the denoising step and the condition.

    Works on plain tensors. At preset ``paper`` (64 channels, multipliers 1, 2, 4, 8, kernel 5)
    it has about 16 million parameters.

    Args:
        observation_dim: O, width of a state.
        channels: width of the first level.
        multipliers: width of each level, as a multiple of ``channels``; every level but the
            last halves the sequence, so the horizon must be divisible by
            ``2 ** (len(multipliers) - 1)``.
        kernel_size: taps of the convolutions; odd.
        groups: groups of the group norms.
        embedding_dim: width of the step's and of the condition's embedding, each; even.
        embedding_hidden_dim: hidden width of the two embedding MLPs.

    Raises:
        InputError: if the kernel is even, the widths are not divisible by ``groups``, a size is not
            positive, or a plan's horizon is not divisible by ``horizon_multiple``.

    Examples:
        >>> import torch
        >>> from torchrl_td.networks import TemporalUNet
        >>> unet = TemporalUNet(11, channels=16, multipliers=(1, 2))
        >>> unet(torch.randn(3, 16, 11), torch.tensor([1, 5, 9]), torch.rand(3, 1)).shape
        torch.Size([3, 16, 11])
    """

    def __init__(
        self,
        observation_dim: int,
        channels: int = 64,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        kernel_size: int = 5,
        groups: int = 8,
        embedding_dim: int = 64,
        embedding_hidden_dim: int = 128,
    ) -> None:
        super().__init__()
        widths = [channels * m for m in multipliers]
        _check_sizes(widths, kernel_size, groups, embedding_dim, embedding_hidden_dim)
        self.observation_dim = observation_dim
        self.embedding_dim = embedding_dim
        self.horizon_multiple = 2 ** (len(widths) - 1)
        self.step_mlp = _embedding_mlp(embedding_dim, embedding_hidden_dim, embedding_dim)
        self.condition_mlp = _embedding_mlp(1, embedding_hidden_dim, embedding_dim)

        def block(c_in: int, c_out: int) -> ResidualBlock:
            return ResidualBlock(c_in, c_out, 2 * embedding_dim, kernel_size, groups)

        self.down = nn.ModuleList()
        for i, (c_in, c_out) in enumerate(zip([observation_dim, *widths], widths, strict=False)):
            last = i == len(widths) - 1
            halve = nn.Identity() if last else nn.Conv1d(c_out, c_out, 3, stride=2, padding=1)
            self.down.append(nn.ModuleList([block(c_in, c_out), block(c_out, c_out), halve]))
        self.middle = nn.ModuleList([block(widths[-1], widths[-1]) for _ in range(2)])
        self.up = nn.ModuleList()
        for c_out, c_in in zip(reversed(widths[:-1]), reversed(widths[1:]), strict=True):
            double = nn.ConvTranspose1d(c_out, c_out, 4, stride=2, padding=1)
            self.up.append(nn.ModuleList([block(2 * c_in, c_out), block(c_out, c_out), double]))
        self.final_block = ConvBlock(widths[0], widths[0], kernel_size, groups)
        self.final = nn.Conv1d(widths[0], observation_dim, 1)

    def embed_step(self, step: Tensor) -> Tensor:
        """Embedding of denoising steps k [B] (as int or float) -> [B, E]."""
        half = self.embedding_dim // 2
        frequency = torch.exp(
            torch.arange(half, device=step.device, dtype=torch.float32)
            * (-math.log(10_000) / (half - 1))
        )
        angle = step.float().unsqueeze(-1) * frequency
        embedding = torch.cat([angle.sin(), angle.cos()], -1)
        return self.step_mlp(embedding.to(self.final.weight.dtype))

    def embed_condition(self, condition: Tensor, keep: Tensor | None = None) -> Tensor:
        """Embedding of returns-to-go [B, 1] -> [B, E]; zero where ``keep`` [B] is False."""
        embedding = self.condition_mlp(condition)
        return embedding if keep is None else embedding * keep.unsqueeze(-1)

    def forward(
        self, x: Tensor, step: Tensor, condition: Tensor, keep_condition: Tensor | None = None
    ) -> Tensor:
        """Predicts the noise.

        Args:
            x: noisy plan, shape [B, H, O].
            step: denoising step k of each plan, shape [B].
            condition: scaled returns-to-go, shape [B, 1].
            keep_condition: bool [B]; False drops the condition (its embedding is set to 0).

        Returns:
            The predicted noise, shape [B, H, O].
        """
        condition_embedding = self.embed_condition(condition, keep_condition)
        return self.denoise(x, self.embed_step(step), condition_embedding)

    def denoise(self, x: Tensor, step_embedding: Tensor, condition_embedding: Tensor) -> Tensor:
        """:meth:`forward` with the embeddings, each [B, E], computed beforehand."""
        return self.run(x, self.project(step_embedding, condition_embedding))

    def project(self, step_embedding: Tensor | None, condition_embedding: Tensor | None) -> Tensor:
        """What the embeddings, each [N, E], add inside the blocks, side by side: [N, ΣC].

        The blocks' maps are linear in the Mish of either embedding, so the two can be
        projected apart, each once a plan, and added: ``project(step, None)[k] +
        project(None, condition)`` equals ``project(step.expand(...), condition)``.
        """
        given = [e for e in (step_embedding, condition_embedding) if e is not None]
        embedding = F.mish(torch.cat(given, -1))
        # The first half of a map's input is the step's embedding, the second the condition's.
        first = 0 if step_embedding is not None else self.embedding_dim
        read = (first, first + embedding.shape[-1])
        maps = [block.embedding for block in self._blocks()]
        weight = torch.cat([one.weight for one in maps])[:, slice(*read)]
        bias = None if step_embedding is None else torch.cat([one.bias for one in maps])
        return F.linear(embedding, weight, bias)

    def run(self, x: Tensor, projected: Tensor) -> Tensor:
        """:meth:`denoise` with :meth:`project`'s result [B, ΣC].

        Raises:
            InputError: if the plan's horizon is not divisible by ``horizon_multiple``.
        """
        if x.shape[1] % self.horizon_multiple:
            raise InputError(
                f"horizon must be divisible by {self.horizon_multiple} for this U-Net, "
                f"got {x.shape[1]}"
            )
        sizes = [block.embedding.out_features for block in self._blocks()]
        embeddings = iter(projected.unsqueeze(-1).split(sizes, 1))
        x = x.transpose(1, 2)  # [B, O, H]
        skips: list[Tensor] = []
        for level in self.down:
            first, second, halve = level.children()
            x = second(first(x, next(embeddings)), next(embeddings))
            skips.append(x)
            x = halve(x)
        for block in self.middle:
            x = block(x, next(embeddings))
        for level in self.up:
            first, second, double = level.children()
            x = torch.cat([x, skips.pop()], 1)
            x = double(second(first(x, next(embeddings)), next(embeddings)))
        return self.final(self.final_block(x)).transpose(1, 2)  # [B, H, O]

    def _blocks(self) -> list[ResidualBlock]:
        """The residual blocks in the order they are run."""
        levels = [*self.down, self.middle, *self.up]
        return [b for level in levels for b in level.children() if isinstance(b, ResidualBlock)]


def _check_sizes(
    widths: Sequence[int], kernel_size: int, groups: int, embedding_dim: int, hidden_dim: int
) -> None:
    """Refuses what no U-Net can be made of."""
    if not widths:
        raise InputError("the U-Net's multipliers are empty; give one for each level")
    if embedding_dim % 2 or embedding_dim < 4:
        raise InputError(
            f"the U-Net's embedding_dim must be even and at least 4, got {embedding_dim}"
        )
    if hidden_dim < 1:
        raise InputError(f"the U-Net's embedding_hidden_dim must be at least 1, got {hidden_dim}")
    if kernel_size % 2 == 0 or kernel_size < 1:
        raise InputError(f"the U-Net's kernel_size must be odd and positive, got {kernel_size}")
    if any(w % groups or w < 1 for w in widths):
        raise InputError(f"the U-Net's widths {widths} must be divisible by groups={groups}")


def _embedding_mlp(in_dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_dim, hidden_dim), nn.Mish(), nn.Linear(hidden_dim, out_dim))
