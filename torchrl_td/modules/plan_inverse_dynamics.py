"""Inverse dynamics that reads more of the plan than its next state, and what was asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn

from torchrl_td.modules.common import KeyedModule, dispatched

_FARTHEST = 8.0  # planned changes are clipped to so many times their root mean square


class PlanInverseDynamics(KeyedModule):
    """The action with which a plan begins: a_t = f(s_t, s_{t+m}, …, s_{t+Pm}, condition).

    It learns from the plans it will be given. A draft is an average of futures, and its change of
    position and its change of speed do not belong together as those of one real trajectory do: a
    network exact on real pairs extrapolates there. Told the condition, it can never know less
    than a policy conditioned on it.

    Args:
        network: from [..., O + P O + 1] to the action.
        scale: root mean square of s_{t+jm} − s_t, shape [H, O], 0 for constant dimensions.
        plan_states: P, how many planned states are read.
        in_keys: keys of the plan [..., H, O], normalised, and the condition [..., 1].
        out_keys: key of the action [..., A].

    Examples:
        >>> import torch
        >>> from torchrl.modules import MLP
        >>> from torchrl_td.modules import PlanInverseDynamics
        >>> network = MLP(3 + 2 * 3 + 1, 2, num_cells=[32])
        >>> inverse_dynamics = PlanInverseDynamics(network, torch.ones(8, 3), plan_states=2)
        >>> inverse_dynamics.act_on(torch.randn(5, 8, 3), torch.ones(5, 1)).shape
        torch.Size([5, 2])
    """

    inverse_scale: Tensor

    def __init__(
        self,
        network: nn.Module,
        scale: Tensor,
        *,
        plan_states: int = 2,
        in_keys: Sequence[NestedKey] = (("plan", "refined"), "returns_to_go"),
        out_keys: Sequence[NestedKey] = ("action",),
    ) -> None:
        super().__init__()
        self.network = network
        self.plan_states = plan_states
        self.in_keys = list(in_keys)
        self.out_keys = list(out_keys)
        used = scale[1 : 1 + plan_states].float()
        self.register_buffer("inverse_scale", torch.where(used > 0, 1 / used.clamp(min=1e-12), 0.0))

    @property
    def action_dim(self) -> int | None:
        """A, as far as the network's last layer tells it."""
        *_, last = self.network.children()
        return getattr(last, "out_features", None)

    @dispatched
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes the action [..., A] with which the plan begins."""
        return self.write_entries(tensordict, self.act_on(*self.read_entries(tensordict)))

    def act_on(self, plan: Tensor, condition: Tensor) -> Tensor:
        """The action [..., A] for plans [..., H, O], the present first, and conditions [..., 1]."""
        present = plan[..., 0, :]
        planned = plan[..., 1 : 1 + self.plan_states, :] - plan[..., :1, :]  # [..., P, O]
        planned = (planned * self.inverse_scale).clamp(-_FARTHEST, _FARTHEST).flatten(-2)
        return self.network(torch.cat([present, planned, condition], -1))
