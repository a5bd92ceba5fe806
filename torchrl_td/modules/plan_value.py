"""The value of states, and how much better than usual a plan turns out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn

from torchrl_td.modules.common import KeyedModule, dispatched

# The mean of log |x| of a standard normal x is -0.635: exp of it, inverted, makes a mean of
# log |error| a standard deviation.
_LOG_TO_STD = 1.887


class PlanValue(KeyedModule):
    """V(s), and the usual outcome of the data's plans from s: its mean and spread.

    A plan's outcome is y = Σ γʲ r_{t+j} + γⁿ V(s_{t+n}), the rewards along it and the value of
    its last state. V is an upper expectile of y, learned from states alone as in IQL and HIQL, so
    that it holds what the best of several continuations through a state would bring, also where
    no single episode joins them. The z-score of y among the data's outcomes from the same state
    says how good a plan is *for its state*: a scale on which one number can be asked for in every
    state and task, where a return asked for must be one that the state can still bring.

    Args:
        network: from states [..., O] to three: V, the mean of y, the mean of log |y − mean|.
        limit: z-scores are clipped to ±limit.
        in_keys: key of the state [..., O], normalised.
        out_keys: key of the value [..., 1].

    Examples:
        >>> import torch
        >>> from torchrl.modules import MLP
        >>> from torchrl_td.modules import PlanValue
        >>> plan_value = PlanValue(MLP(11, 3, num_cells=[32]))
        >>> observation, outcome = torch.randn(5, 11), torch.rand(5, 1)
        >>> plan_value.value(observation).shape, plan_value.score(observation, outcome).shape
        (torch.Size([5, 1]), torch.Size([5, 1]))
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        limit: float = 4.0,
        in_keys: Sequence[NestedKey] = ("observation",),
        out_keys: Sequence[NestedKey] = ("state_value",),
    ) -> None:
        super().__init__()
        self.network = network
        self.limit = limit
        self.in_keys = list(in_keys)
        self.out_keys = list(out_keys)

    @dispatched
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes V [..., 1] of the state."""
        return self.write_entries(tensordict, self.value(*self.read_entries(tensordict)))

    def value(self, observation: Tensor) -> Tensor:
        """V [..., 1] of states [..., O]."""
        return self.network(observation)[..., :1]

    def score(self, observation: Tensor, outcome: Tensor) -> Tensor:
        """The z-score [..., 1] of an outcome [..., 1] among those from states [..., O]."""
        _, mean, log_error = self.network(observation).split(1, -1)
        spread = _LOG_TO_STD * torch.exp(log_error)
        return ((outcome - mean) / spread).clamp(-self.limit, self.limit)
