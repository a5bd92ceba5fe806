"""The causal transformer that continues a trajectory (paper section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchrl_td.errors import InputError


@dataclass
class KeyValueCache:
    """Keys and values of the tokens read so far, one static buffer per layer.

    Attributes:
        entries: keys and values of each layer, shape [2, B, heads, L + steps, width / heads].
        mask: −∞ where a token is missing, else 0, shape [B, 1, 1, L + steps]; a short history
            is padded at its left.
        position: number of real tokens of each row so far, shape [B].
        length: number of buffer entries filled, the same for every row.
    """

    entries: list[Tensor]
    mask: Tensor
    position: Tensor
    length: int


class Attention(nn.Module):
    """Multi-head self-attention, with and without a cache."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def project(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> query, key and value [3, B, heads, T, D / heads]."""
        batch, length, width = x.shape
        qkv = self.to_qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        return qkv.permute(2, 0, 3, 1, 4)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """The mask, broadcastable to [B, heads, T, S], is −∞ where a query may not look."""
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(out.transpose(1, 2).flatten(2))  # [B, T, D]


class Block(nn.Module):
    """Pre-norm transformer block with a ReLU feed-forward layer of the model's width."""

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, feedforward),
            nn.ReLU(),
            nn.Linear(feedforward, width),
        )

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        cache: Tensor | None = None,
        start: int = 0,
        outputs: int | None = None,
    ) -> Tensor:
        """x [B, T, D] -> [B, T, D], or its last ``outputs`` positions only.

        With a cache [2, B, heads, S, D / heads] of keys and values, those of the T new tokens
        are written there at ``start``.
        """
        projected = self.attention.project(self.attention_norm(x))
        query, keys_and_values = projected[0], projected[1:]
        if cache is not None:
            end = start + x.shape[1]
            cache[:, :, :, start:end] = keys_and_values
            keys_and_values = cache[:, :, :, :end]
        key, value = keys_and_values.unbind(0)
        if outputs is not None:
            x, query, mask = x[:, -outputs:], query[:, :, -outputs:], mask[:, :, -outputs:]
        x = x + self.attention.attend(query, key, value, mask)
        return x + self.feedforward(x)


class TrajectoryTransformer(nn.Module):
    """Predicts the next state and the next returns-to-go at every position.

    A token is the concatenation of a linear map of the state and one of the
    returns-to-go, layer-normalised. The position embedding counts from the first *real*
    token of a row, so each training window covers every context length from 1 to T, also the
    short ones of an episode's start.

    At preset ``paper`` (width 512, 4 blocks, 4 heads, feed-forward 512) it has about 6.4
    million parameters.

    Args:
        observation_dim: O, width of a state.
        max_length: T, the longest sequence (2H − 2 for a history of H − 1 and a horizon of H).
        width: width of a token; half is the state's and half the returns-to-go's.
        layers: number of blocks.
        heads: attention heads.
        feedforward: hidden width of the feed-forward layers; ``None`` takes ``width``.
        causal: False removes the mask, as in the authors' code: a position then sees its own
            target in training, and decoding cannot use a cache.

    Raises:
        InputError: ``width`` is not divisible by 2 and by ``heads``, or ``feedforward`` is below 1.

    Examples:
        >>> import torch
        >>> from torchrl_td.networks import TrajectoryTransformer
        >>> network = TrajectoryTransformer(11, max_length=30, width=64, layers=2)
        >>> mask = torch.ones(4, 30, dtype=torch.bool)
        >>> state, returns = network(torch.randn(4, 30, 11), torch.rand(4, 30, 1), mask)
        >>> state.shape, returns.shape
        (torch.Size([4, 30, 11]), torch.Size([4, 30, 1]))
    """

    def __init__(
        self,
        observation_dim: int,
        max_length: int,
        width: int = 512,
        layers: int = 4,
        heads: int = 4,
        feedforward: int | None = None,
        causal: bool = True,
    ) -> None:
        super().__init__()
        if width % 2 or width % heads:
            raise InputError(
                f"the transformer's width {width} must be divisible by 2 and by {heads}"
            )
        if feedforward is not None and feedforward < 1:
            raise InputError(f"the transformer's feedforward must be at least 1, got {feedforward}")
        self.causal = causal
        self.heads = heads
        self.observation_dim = observation_dim
        self.max_length = max_length
        self.embed_state = nn.Linear(observation_dim, width // 2)
        self.embed_returns = nn.Linear(1, width // 2)
        self.embed_position = nn.Parameter(torch.empty(max_length, width))
        self.reset_parameters()
        self.embedding_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            [Block(width, heads, feedforward or width) for _ in range(layers)]
        )
        self.norm = nn.LayerNorm(width)
        self.state_head = nn.Linear(width, observation_dim)
        self.returns_head = nn.Linear(width, 1)

    def reset_parameters(self) -> None:
        """Draws the position embedding, the one parameter that is no layer's, anew."""
        with torch.no_grad():
            self.embed_position.copy_(0.02 * torch.randn_like(self.embed_position))

    def forward(
        self, observation: Tensor, returns_to_go: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Reads whole sequences.

        Args:
            observation: states, shape [B, T, O].
            returns_to_go: shape [B, T, 1].
            mask: bool [B, T], True for real tokens; rows may be padded at both ends.

        Returns:
            Predictions of the next state [B, T, O] and the next returns-to-go [B, T, 1].
        """
        position = (mask.cumsum(-1) - 1).clamp(min=0)
        x = self._embed(observation, returns_to_go, position)
        attend = self._mask(mask, x)
        for block in self.blocks:
            x = block(x, attend)
        return self._heads(x)

    def start(
        self, observation: Tensor, returns_to_go: Tensor, mask: Tensor, steps: int
    ) -> tuple[Tensor, Tensor, KeyValueCache]:
        """Reads a history padded at its left and makes room for ``steps`` more tokens.

        Args:
            observation: shape [B, L, O]; the last entry is the present.
            returns_to_go: shape [B, L, 1].
            mask: bool [B, L].
            steps: how many tokens :meth:`step` will append at most.

        Returns:
            The predictions at the last position, [B, O] and [B, 1], and the cache.
        """
        batch, length = mask.shape
        position = (mask.cumsum(-1) - 1).clamp(min=0)
        x = self._embed(observation, returns_to_go, position)
        heads = self.heads
        shape = (2, batch, heads, length + steps, x.shape[-1] // heads)
        cache = KeyValueCache(
            entries=[x.new_empty(shape) for _ in self.blocks],
            mask=_additive(torch.cat([mask, mask.new_ones(batch, steps)], 1)[:, None, None], x),
            position=mask.sum(-1),
            length=length,
        )
        attend = self._mask(mask, x)
        for i, block in enumerate(self.blocks):
            # Of the last block only the last position is used.
            outputs = 1 if i == len(self.blocks) - 1 else None
            # Without a further token nobody reads what would be kept.
            x = block(x, attend, cache.entries[i] if steps else None, outputs=outputs)
        state, returns = self._heads(x[:, -1])
        return state, returns, cache

    def step(
        self, observation: Tensor, returns_to_go: Tensor, cache: KeyValueCache
    ) -> tuple[Tensor, Tensor, KeyValueCache]:
        """Appends one token and predicts the next.

        Args:
            observation: shape [B, O].
            returns_to_go: shape [B, 1].
            cache: from :meth:`start` or the step before.

        Returns:
            The predictions, [B, O] and [B, 1], and the cache for the next step.
        """
        x = self._embed(
            observation.unsqueeze(1), returns_to_go.unsqueeze(1), cache.position.unsqueeze(1)
        )
        end = cache.length + 1
        attend = cache.mask[..., :end]
        for block, entries in zip(self.blocks, cache.entries, strict=True):
            x = block(x, attend, entries, cache.length)
        state, returns = self._heads(x[:, -1])
        cache = KeyValueCache(cache.entries, cache.mask, cache.position + 1, end)
        return state, returns, cache

    def _embed(self, observation: Tensor, returns_to_go: Tensor, position: Tensor) -> Tensor:
        token = torch.cat([self.embed_state(observation), self.embed_returns(returns_to_go)], -1)
        return self.embedding_norm(token + self.embed_position[position])

    def _mask(self, valid: Tensor, x: Tensor) -> Tensor:
        """Which position may look at which, [B, 1, T, T], to be added to the scores."""
        length = valid.shape[1]
        attend = valid[:, None, None, :].expand(-1, 1, length, -1)
        if self.causal:
            attend = attend & attend.new_ones(length, length).tril()
        # A padded position may look at itself: a row without any key would be NaN.
        return _additive(attend | torch.eye(length, dtype=torch.bool, device=valid.device), x)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(x)
        return self.state_head(x), self.returns_head(x)


def _additive(attend: Tensor, like: Tensor) -> Tensor:
    """0 where a position may be looked at and −∞ where not, in the type of ``like``."""
    return like.new_zeros(attend.shape).masked_fill(~attend, -torch.inf)
