"""Loss of the value of states and of the usual outcome of plans."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_td.errors import InputError
from torchrl_td.modules.plan_value import PlanValue
from torchrl_td.objectives.common import WindowLoss

_SMALLEST = 1e-5  # error whose logarithm still counts: a state with one outcome has none
_SPREAD_WEIGHT = 0.1  # of the logarithms, which are of the size of several standard deviations


class PlanValueLoss(WindowLoss):
    """Expectile regression of V, and regression of the outcomes' mean and spread.

    The outcome of a plan is its discounted reward and the discounted value of its last state,
    by target weights. V is regressed on it with errors below 0 weighted by 1 − τ and above by τ
    (IQL's eq. 5, on states alone).

    Args:
        plan_value_network (PlanValue): the value.

    Keyword Args:
        expectile (float): τ, between 0.5, the mean, and 1, the maximum.

    Raises:
        InputError: if the expectile is out of its range.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.modules import MLP
        >>> from torchrl_td.modules import PlanValue
        >>> from torchrl_td.objectives import PlanValueLoss
        >>> loss_module = PlanValueLoss(PlanValue(MLP(3, 3, num_cells=[32])))
        >>> batch = TensorDict(
        ...     observation=torch.randn(4, 3),
        ...     plan=TensorDict(
        ...         reward=torch.rand(4, 1), end=torch.randn(4, 3), discount=torch.rand(4, 1),
        ...         batch_size=[4],
        ...     ),
        ...     batch_size=[4],
        ... )
        >>> loss_module(batch)["loss_plan_value"].backward()
    """

    @dataclass
    class _AcceptedKeys:
        """Keys of the batch.

        Attributes:
            observation: the present states [B, O].
            reward: discounted reward along the plan [B, 1].
            end: the plan's last states [B, O].
            discount: of the last state's value [B, 1]; 0 where the episode terminated before.
        """

        observation: NestedKey = "observation"
        reward: NestedKey = ("plan", "reward")
        end: NestedKey = ("plan", "end")
        discount: NestedKey = ("plan", "discount")

    default_keys = _AcceptedKeys
    out_keys = ["loss_plan_value", "value_error", "outcome_error"]  # noqa: RUF012

    plan_value_network: PlanValue
    plan_value_network_params: TensorDictParams
    target_plan_value_network_params: TensorDictParams

    def __init__(self, plan_value_network: PlanValue, *, expectile: float = 0.95) -> None:
        super().__init__(
            plan_value_network, "plan_value_network", "mean", create_target_params=True
        )
        if not 0.5 <= expectile < 1:
            raise InputError(f"expectile must lie in 0.5..1, 1 excluded, got {expectile}")
        self.expectile = expectile

    @torch.no_grad()
    def outcome(self, tensordict: TensorDictBase) -> Tensor:
        """Outcomes y [B, 1] of the plans of a batch, by the target weights."""
        reward, end, discount = (
            tensordict.get(getattr(self.tensor_keys, name))
            for name in ("reward", "end", "discount")
        )
        with self.target_plan_value_network_params.to_module(self.plan_value_network):
            return reward + discount * self.plan_value_network.value(end)

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Computes the loss of a batch [B].

        Returns:
            ``loss_plan_value`` and, detached, ``value_error`` and ``outcome_error``.
        """
        outcome = self.outcome(tensordict)
        observation = tensordict.get(self.tensor_keys.observation)
        with self.plan_value_network_params.to_module(self.plan_value_network):
            value, mean, log_error = self.plan_value_network.network(observation).split(1, -1)
        error = outcome - value
        weight = torch.where(error > 0, self.expectile, 1 - self.expectile)
        value_error = (weight * error.square()).mean()
        off = outcome - mean
        mean_error = off.square().mean()
        log_off = off.detach().abs().clamp(min=_SMALLEST).log()
        spread_error = (log_off - log_error).square().mean()
        return TensorDict(
            {
                "loss_plan_value": value_error + mean_error + _SPREAD_WEIGHT * spread_error,
                "value_error": value_error.detach(),
                "outcome_error": mean_error.detach(),
            }
        )
