"""GRU and LSTM trajectory models, the transformer's alternatives (paper Table 4)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from torchrl_td.errors import InputError, check_whole

Cell = Literal["gru", "lstm"]
State = tuple[Tensor, ...]


class RecurrentTrajectoryModel(nn.Module):
    """Predicts the next state and the next returns-to-go with a GRU or an LSTM.

    Tokens, inputs and outputs are those of
    :class:`~torchrl_td.networks.TrajectoryTransformer`; the cache is the hidden state.

    Args:
        observation_dim: O, width of a state.
        cell: ``"gru"`` or ``"lstm"``.
        width: width of a token and of the hidden state; even.
        layers: stacked recurrent layers.

    Raises:
        InputError: if the cell is unknown, the width is odd, or a size is not positive.

    Examples:
        >>> import torch
        >>> from torchrl_td.networks import RecurrentTrajectoryModel
        >>> network = RecurrentTrajectoryModel(11, "gru", width=64)
        >>> mask = torch.ones(4, 30, dtype=torch.bool)
        >>> network(torch.randn(4, 30, 11), torch.rand(4, 30, 1), mask)[0].shape
        torch.Size([4, 30, 11])
    """

    causal = True

    def __init__(
        self, observation_dim: int, cell: Cell = "gru", width: int = 512, layers: int = 2
    ) -> None:
        super().__init__()
        if cell not in get_args(Cell):
            allowed = ", ".join(get_args(Cell))
            raise InputError(f"unknown recurrent cell {cell!r}; allowed are {allowed}")
        for name, size in (
            ("observation_dim", observation_dim),
            ("width", width),
            ("layers", layers),
        ):
            check_whole(name, size, 1)
        if width % 2:
            raise InputError(f"the recurrent model's width must be even, got {width}")
        self.observation_dim = observation_dim
        self.embed_state = nn.Linear(observation_dim, width // 2)
        self.embed_returns = nn.Linear(1, width // 2)
        self.embedding_norm = nn.LayerNorm(width)
        kind = nn.GRU if cell == "gru" else nn.LSTM
        self.rnn = kind(width, width, layers, batch_first=True)
        self.state_head = nn.Linear(width, observation_dim)
        self.returns_head = nn.Linear(width, 1)

    def forward(
        self, observation: Tensor, returns_to_go: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Reads whole sequences [B, T, O], [B, T, 1] with bool mask [B, T]."""
        x = self._embed(observation, returns_to_go)  # [B, T, D]
        # Rows are shifted so that their first real token comes first: the hidden state starts
        # at zero there, whatever padding stood before it.
        padding = mask.long().argmax(-1, keepdim=True)  # [B, 1]
        time = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
        x = _gather(x, (time + padding).clamp(max=mask.shape[1] - 1))
        x, _ = self.rnn(x)
        return self._heads(_gather(x, (time - padding).clamp(min=0)))

    def start(
        self, observation: Tensor, returns_to_go: Tensor, mask: Tensor, steps: int
    ) -> tuple[Tensor, Tensor, State]:
        """Reads a history padded at its left.

        Args:
            observation: shape [B, L, O]; the last entry is the present.
            returns_to_go: shape [B, L, 1].
            mask: bool [B, L].
            steps: how many tokens follow; the transformer makes room for them, a hidden state
                needs none.

        Returns:
            The predictions at the last position, [B, O] and [B, 1], and the hidden state.
        """
        x = self._embed(observation, returns_to_go)
        zeros = x.new_zeros(self.rnn.num_layers, x.shape[0], x.shape[2])
        state: State = (zeros, zeros) if isinstance(self.rnn, nn.LSTM) else (zeros,)
        out = x
        for t in range(x.shape[1]):
            out, new_state = self._run(x[:, t : t + 1], state)
            real = mask[:, t].view(1, -1, 1)
            state = tuple(torch.where(real, n, s) for n, s in zip(new_state, state, strict=True))
        return *self._heads(out[:, -1]), state

    def step(
        self, observation: Tensor, returns_to_go: Tensor, cache: State
    ) -> tuple[Tensor, Tensor, State]:
        """Appends one token and predicts the next.

        Args:
            observation: shape [B, O].
            returns_to_go: shape [B, 1].
            cache: from :meth:`start` or the step before.

        Returns:
            The predictions, [B, O] and [B, 1], and the hidden state for the next step.
        """
        out, cache = self._run(self._embed(observation, returns_to_go).unsqueeze(1), cache)
        return *self._heads(out[:, -1]), cache

    def _run(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if isinstance(self.rnn, nn.LSTM):
            return self.rnn(x, state)
        out, hidden = self.rnn(x, state[0])
        return out, (hidden,)

    def _embed(self, observation: Tensor, returns_to_go: Tensor) -> Tensor:
        token = torch.cat([self.embed_state(observation), self.embed_returns(returns_to_go)], -1)
        return self.embedding_norm(token)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.state_head(x), self.returns_head(x)


def _gather(x: Tensor, time: Tensor) -> Tensor:
    """x [B, T, D] at time indices [B, T]."""
    return x.gather(1, time.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
