"""What the data's best returns-to-go from a state are: the most that is asked for there."""

from __future__ import annotations

from collections.abc import Sequence

from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn

from torchrl_td.modules.common import KeyedModule, dispatched


class ReturnsLimit(KeyedModule):
    """An upper expectile of the data's returns-to-go from a state.

    A target return is one number for every start, and one that no episode brought from where this
    one starts asks for what nothing has been learned of, as in data cut into pieces of which the
    later ones bring most. What is asked for beyond this limit is forgone from the reset on.

    Args:
        network: from states [..., O] to one number.
        in_keys: key of the state [..., O], normalised.
        out_keys: key of the most returns-to-go [..., 1], scaled.

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
        in_keys: Sequence[NestedKey] = ("observation",),
        out_keys: Sequence[NestedKey] = ("returns_limit",),
    ) -> None:
        super().__init__()
        self.network = network
        self.in_keys = list(in_keys)
        self.out_keys = list(out_keys)

    @dispatched
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes the most that the state's returns-to-go are."""
        return self.write_entries(tensordict, self.limit(*self.read_entries(tensordict)))

    def limit(self, observation: Tensor) -> Tensor:
        """The most returns-to-go [..., 1] of states [..., O]."""
        return self.network(observation)
