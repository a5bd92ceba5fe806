"""Loss of the inverse dynamics (paper eq. 3)."""

from __future__ import annotations

from dataclasses import dataclass

from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from tensordict.utils import NestedKey

from torchrl_td.modules import InverseDynamics
from torchrl_td.modules.choices import action_error
from torchrl_td.objectives.common import Reduction, WindowLoss, hide_masked


class InverseDynamicsLoss(WindowLoss):
    """Mean squared error of the action between two consecutive states (paper eq. 3).

    Cross entropy where the actions are choices.

    Of `Trajectory Diffuser <https://arxiv.org/abs/2407.16142>`_ (Huang et al., 2024), eq. 3.

    Args:
        inverse_dynamics_network (InverseDynamics): the inverse dynamics.

    Keyword Args:
        reduction (str, optional): ``"mean"``, which ``None`` stands for, ``"sum"`` or
            ``"none"``.

    Raises:
        InputError: if the reduction is unknown; in use, if an entry is of another shape.
        KeyError: in use, if the batch lacks an entry.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_td.modules import InverseDynamics
        >>> from torchrl.modules import MLP
        >>> from torchrl_td.objectives import InverseDynamicsLoss
        >>> loss_module = InverseDynamicsLoss(InverseDynamics(MLP(6, 2, num_cells=(32, 32))))
        >>> window = TensorDict(
        ...     observation=torch.randn(4, 14, 3),
        ...     action=torch.randn(4, 14, 2),
        ...     next=TensorDict(observation=torch.randn(4, 14, 3), batch_size=[4, 14]),
        ...     mask=torch.ones(4, 14, dtype=torch.bool),
        ...     batch_size=[4, 14],
        ... )
        >>> loss_module(window)["loss_inverse_dynamics"].backward()
    """

    @dataclass
    class _AcceptedKeys:
        """Keys of the window.

        Attributes:
            observation: states [B, T, O].
            next_observation: the states that follow.
            action: the actions between them [B, T, A].
            mask: [B, T] or [B, T, 1], True for real steps; where it is missing, all are.
            next_known: [B, T, 1], False or 0 where ``next_observation`` is not known and
                teaches nothing; where the entry is missing, all are known.
        """

        observation: NestedKey = "observation"
        next_observation: NestedKey = ("next", "observation")
        action: NestedKey = "action"
        mask: NestedKey = "mask"
        next_known: NestedKey = ("next", "known")

    default_keys = _AcceptedKeys
    default_out_keys = ("loss_inverse_dynamics",)
    module_reads, module_writes = ("observation", "next_observation"), "action"

    inverse_dynamics_network: InverseDynamics
    inverse_dynamics_network_params: TensorDictParams
    target_inverse_dynamics_network_params: TensorDictParams

    def __init__(
        self,
        inverse_dynamics_network: InverseDynamics,
        *,
        reduction: Reduction | None = "mean",
    ) -> None:
        super().__init__(inverse_dynamics_network, "inverse_dynamics_network", reduction)

    @dispatch(source="keyword_keys")
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Computes ``loss_inverse_dynamics`` of a batch of windows, or of steps, of any shape."""
        entries = self._read(tensordict, "observation", "next_observation", "action")
        _, counted = self._masks(tensordict, entries[0])
        known = self._known(tensordict, counted, entries[1])
        observation, next_observation, action = hide_masked(known, *entries)
        with self.inverse_dynamics_network_params.to_module(self.inverse_dynamics_network):
            predicted = self.inverse_dynamics_network.output(observation, next_observation)
        self._check_width("action", action, predicted.shape[-1])
        error = action_error(predicted, action, self.inverse_dynamics_network.choices)
        error = error.where(known.unsqueeze(-1), 0.0)
        return TensorDict({"loss_inverse_dynamics": self._reduced(error, counted)})
