"""The Monte-Carlo critic that can choose among candidate plans."""

from __future__ import annotations

from collections.abc import Sequence

from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn

from torchrl_td.modules.common import KeyedModule, dispatched


class PlanCritic(KeyedModule):
    """Monte-Carlo critic Q(s, a), the scaled returns-to-go of an action.

    The paper does not mention it; the authors' code picks among candidate plans with it.

    Args:
        network: an MLP on a state and an action.
        in_keys: keys of the state [..., O] and the action [..., A].
        out_keys: key of the value [..., 1].

    Raises:
        KeyError: in use, if an entry is missing.

    Examples:
        >>> import torch
        >>> from torchrl_td.modules import PlanCritic
        >>> from torchrl.modules import MLP
        >>> critic = PlanCritic(MLP(11 + 3, 1, num_cells=(128, 128)))
        >>> critic.value(torch.randn(5, 11), torch.randn(5, 3)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        in_keys: Sequence[NestedKey] = ("observation", "action"),
        out_keys: Sequence[NestedKey] = ("state_action_value",),
    ) -> None:
        super().__init__()
        self.network = network
        self.in_keys = list(in_keys)
        self.out_keys = list(out_keys)

    @dispatched
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes Q [..., 1] of state and action."""
        return self.write_entries(tensordict, self.value(*self.read_entries(tensordict)))

    def value(self, observation: Tensor, action: Tensor) -> Tensor:
        """Q [..., 1] of states [..., O] and actions [..., A]."""
        return self.network(observation, action)
