"""Losses of the inverse dynamics and of the optional critic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from tensordict.utils import NestedKey
from torchrl.objectives.common import LossModule

from torchrl_td.modules import InverseDynamics, PlanCritic
from torchrl_td.objectives.common import check_reduction, hide_masked, reduce_masked


class InverseDynamicsLoss(LossModule):
    """Mean squared error of the action between two consecutive states (paper eq. 3).

    Args:
        inverse_dynamics_network (InverseDynamics): the inverse dynamics.

    Keyword Args:
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_td.modules import InverseDynamics
        >>> from torchrl_td.networks import MLP
        >>> from torchrl_td.objectives import InverseDynamicsLoss
        >>> loss_module = InverseDynamicsLoss(InverseDynamics(MLP(6, (32, 32), 2)))
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
            mask: bool [B, T], True for real steps.
        """

        observation: NestedKey = "observation"
        next_observation: NestedKey = ("next", "observation")
        action: NestedKey = "action"
        mask: NestedKey = "mask"

    default_keys = _AcceptedKeys
    out_keys = ["loss_inverse_dynamics"]  # noqa: RUF012

    inverse_dynamics_network: InverseDynamics
    inverse_dynamics_network_params: TensorDictParams
    target_inverse_dynamics_network_params: TensorDictParams

    def __init__(
        self, inverse_dynamics_network: InverseDynamics, *, reduction: str = "mean"
    ) -> None:
        super().__init__()
        self.reduction = check_reduction(reduction)
        self.convert_to_functional(inverse_dynamics_network, "inverse_dynamics_network")

    @property
    def in_keys(self) -> list[NestedKey]:
        keys = self.tensor_keys
        return [keys.observation, keys.next_observation, keys.action, keys.mask]

    @in_keys.setter
    def in_keys(self, value: list[NestedKey]) -> None:
        raise AttributeError("rename keys with set_keys")

    def _forward_value_estimator_keys(self, **kwargs) -> None:
        pass

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Computes ``loss_inverse_dynamics`` of a batch of windows [B, T]."""
        *entries, mask = (tensordict.get(key) for key in self.in_keys)
        observation, next_observation, action = hide_masked(mask, *entries)
        with self.inverse_dynamics_network_params.to_module(self.inverse_dynamics_network):
            predicted = self.inverse_dynamics_network.act(observation, next_observation)
        loss = reduce_masked((predicted - action).square(), mask, self.reduction)
        return TensorDict({"loss_inverse_dynamics": loss}, batch_size=torch.Size([]))


class PlanCriticLoss(LossModule):
    """Mean squared error of Q(s, a) against the scaled returns-to-go (Monte Carlo).

    Args:
        critic_network (PlanCritic): the critic.

    Keyword Args:
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"``.
    """

    @dataclass
    class _AcceptedKeys:
        """Keys of the window.

        Attributes:
            observation: states [B, T, O].
            action: actions [B, T, A].
            returns_to_go: scaled returns-to-go [B, T, 1].
            mask: bool [B, T], True for real steps.
        """

        observation: NestedKey = "observation"
        action: NestedKey = "action"
        returns_to_go: NestedKey = "returns_to_go"
        mask: NestedKey = "mask"

    default_keys = _AcceptedKeys
    out_keys = ["loss_critic"]  # noqa: RUF012

    critic_network: PlanCritic
    critic_network_params: TensorDictParams
    target_critic_network_params: TensorDictParams

    def __init__(self, critic_network: PlanCritic, *, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = check_reduction(reduction)
        self.convert_to_functional(critic_network, "critic_network")

    @property
    def in_keys(self) -> list[NestedKey]:
        keys = self.tensor_keys
        return [keys.observation, keys.action, keys.returns_to_go, keys.mask]

    @in_keys.setter
    def in_keys(self, value: list[NestedKey]) -> None:
        raise AttributeError("rename keys with set_keys")

    def _forward_value_estimator_keys(self, **kwargs) -> None:
        pass

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Computes ``loss_critic`` of a batch of windows [B, T]."""
        *entries, mask = (tensordict.get(key) for key in self.in_keys)
        observation, action, returns_to_go = hide_masked(mask, *entries)
        with self.critic_network_params.to_module(self.critic_network):
            value = self.critic_network.value(observation, action)
        loss = reduce_masked((value - returns_to_go).square(), mask, self.reduction)
        return TensorDict({"loss_critic": loss}, batch_size=torch.Size([]))
