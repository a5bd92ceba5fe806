"""Loss of the inverse dynamics that acts on plans."""

from __future__ import annotations

from dataclasses import dataclass

from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from tensordict.utils import NestedKey

from torchrl_td.modules.plan_inverse_dynamics import PlanInverseDynamics
from torchrl_td.objectives.common import WindowLoss


class PlanInverseDynamicsLoss(WindowLoss):
    """Mean squared error of the action, from the plan that the planner would make there.

    Args:
        inverse_dynamics_network (PlanInverseDynamics): the inverse dynamics.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.modules import MLP
        >>> from torchrl_td.modules import PlanInverseDynamics
        >>> from torchrl_td.objectives import PlanInverseDynamicsLoss
        >>> network = PlanInverseDynamics(MLP(3 + 2 * 3 + 1, 2, num_cells=[32]), torch.ones(8, 3))
        >>> loss_module = PlanInverseDynamicsLoss(network)
        >>> batch = TensorDict(
        ...     plan=TensorDict(draft=torch.randn(4, 8, 3), batch_size=[4]),
        ...     condition=torch.randn(4, 1),
        ...     action=torch.randn(4, 2),
        ...     batch_size=[4],
        ... )
        >>> loss_module(batch)["loss_inverse_dynamics"].backward()
    """

    @dataclass
    class _AcceptedKeys:
        """Keys of the batch.

        Attributes:
            draft: plans [B, H, O] made from the present states, without a gradient.
            condition: what they were made for [B, 1].
            action: the data's actions [B, A] in the present states.
        """

        draft: NestedKey = ("plan", "draft")
        condition: NestedKey = "condition"
        action: NestedKey = "action"

    default_keys = _AcceptedKeys
    out_keys = ["loss_inverse_dynamics"]  # noqa: RUF012

    inverse_dynamics_network: PlanInverseDynamics
    inverse_dynamics_network_params: TensorDictParams
    target_inverse_dynamics_network_params: TensorDictParams

    def __init__(self, inverse_dynamics_network: PlanInverseDynamics) -> None:
        super().__init__(inverse_dynamics_network, "inverse_dynamics_network", "mean")

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Computes ``loss_inverse_dynamics`` of a batch [B]."""
        keys = self.tensor_keys
        plan, condition, action = (
            tensordict.get(key) for key in (keys.draft, keys.condition, keys.action)
        )
        with self.inverse_dynamics_network_params.to_module(self.inverse_dynamics_network):
            error = self.inverse_dynamics_network.act_on(plan, condition) - action
        return TensorDict({"loss_inverse_dynamics": error.square().mean()})
