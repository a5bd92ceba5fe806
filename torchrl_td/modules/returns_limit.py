"""What the data's best returns-to-go from a state are: the most that is asked for there."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn

from torchrl_td.errors import InputError
from torchrl_td.modules.common import KeyedModule, dispatched


class ReturnsLimit(KeyedModule):
    """The most of the data's returns-to-go from a state, by their upper expectile.

    A target return is one number for every start, and one that no episode brought from where this
    one starts asks for what nothing has been learned of, as in data cut into pieces of which the
    later ones bring most. What is asked for beyond this limit is forgone from the reset on.

    Of returns-to-go spread evenly from 0 to m the τ-expectile is m / (1 + √((1 − τ) / τ)), 3 %
    below m at 0.999; the limit is by so much above it that a target which the data do reach stays.

    Args:
        network: from states [..., O] to the expectile.
        expectile: τ, between 0.5, the mean, and 1, the maximum.
        in_keys: key of the state [..., O], normalised.
        out_keys: key of the most returns-to-go [..., 1], scaled.

    Raises:
        InputError: if the expectile is out of its range.

    Examples:
        >>> import torch
        >>> from torchrl.modules import MLP
        >>> from torchrl_td.modules import ReturnsLimit
        >>> limit = ReturnsLimit(MLP(11, 1, num_cells=[32]))
        >>> limit.limit(torch.randn(5, 11)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        expectile: float = 0.999,
        in_keys: Sequence[NestedKey] = ("observation",),
        out_keys: Sequence[NestedKey] = ("returns_limit",),
    ) -> None:
        super().__init__()
        if not 0.5 <= expectile < 1:
            raise InputError(f"expectile must lie in 0.5..1, 1 excluded, got {expectile}")
        self.network, self.expectile = network, expectile
        self.in_keys = list(in_keys)
        self.out_keys = list(out_keys)

    @dispatched
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes the most that the state's returns-to-go are."""
        return self.write_entries(tensordict, self.limit(*self.read_entries(tensordict)))

    def estimate(self, observation: Tensor) -> Tensor:
        """The expectile [..., 1] of the returns-to-go from states [..., O]."""
        return self.network(observation)

    def limit(self, observation: Tensor) -> Tensor:
        """The most returns-to-go [..., 1] to ask for at states [..., O]."""
        estimate = self.estimate(observation)
        return estimate + math.sqrt(1 / self.expectile - 1) * estimate.abs()
