"""Inverse dynamics (paper eq. 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn

from torchrl_td.modules.common import KeyedModule, dispatched


class InverseDynamics(KeyedModule):
    """The action that leads from one state to the next: a_t = f_φ(s_t, s_{t+1}).

    Of `Trajectory Diffuser <https://arxiv.org/abs/2407.16142>`_ (Huang et al., 2024), eq. 3.

    Args:
        network: an MLP on two states.
        change_scale: root mean square of the change in a step, shape [O]. If given, the
            network reads (s_t, (s_{t+1} − s_t) / scale) in place of the two states, so the
            difference that holds the action is of the size of the rest. ``None`` as in the
            paper.
        in_keys: keys of the two states [..., O], normalised with the same statistics; or one
            key, that of a plan [..., H, O], whose first two states they are.
        out_keys: key of the action [..., A].

    Raises:
        KeyError: in use, if an entry is missing.

    Examples:
        >>> import torch
        >>> from torchrl_td.modules import InverseDynamics
        >>> from torchrl.modules import MLP
        >>> inverse_dynamics = InverseDynamics(MLP(2 * 11, 3, num_cells=(256, 256)))
        >>> inverse_dynamics.act(torch.randn(5, 11), torch.randn(5, 11)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        change_scale: Tensor | None = None,
        in_keys: Sequence[NestedKey] = ("observation", ("next", "observation")),
        out_keys: Sequence[NestedKey] = ("action",),
    ) -> None:
        super().__init__()
        self.network = network
        self.in_keys = list(in_keys)
        self.out_keys = list(out_keys)
        inverse = None
        if change_scale is not None:
            inverse = torch.where(change_scale > 0, 1 / change_scale.clamp(min=1e-12), 0.0).float()
        self.register_buffer("inverse_change_scale", inverse)

    @property
    def action_dim(self) -> int | None:
        """A, as far as the network's last layer tells it."""
        *_, last = self.network.children()
        return getattr(last, "out_features", None)

    @dispatched
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes the action [..., A] between the two states."""
        entries = self.read_entries(tensordict)
        if len(entries) == 1:
            entries = [entries[0][..., 0, :], entries[0][..., 1, :]]
        return self.write_entries(tensordict, self.act(*entries))

    def act(self, observation: Tensor, next_observation: Tensor) -> Tensor:
        """The action [..., A] between two states [..., O]."""
        if self.inverse_change_scale is not None:
            change = (next_observation - observation) * self.inverse_change_scale
            return self.network(observation, change)
        return self.network(observation, next_observation)
