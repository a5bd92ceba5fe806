"""Losses of the parts that make a plan in one evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_td.errors import InputError
from torchrl_td.modules import PlanGenerator, PlanInverseDynamics, PlanValue
from torchrl_td.objectives.common import WindowLoss

_SMALLEST = 1e-5  # error whose logarithm still counts: a state with one outcome has none
_SPREAD_WEIGHT = 0.1  # of the logarithms, which are of the size of several standard deviations


class PlanGeneratorLoss(WindowLoss):
    """Mean squared error of a plan's displacements, in units of their root mean square.

    Args:
        generator_network (PlanGenerator): the generator.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.modules import MLP
        >>> from torchrl_td.modules import PlanGenerator
        >>> from torchrl_td.objectives import PlanGeneratorLoss
        >>> generator = PlanGenerator(MLP(3 + 1, 7 * 3, num_cells=[32]), torch.ones(8, 3))
        >>> loss_module = PlanGeneratorLoss(generator)
        >>> plans = TensorDict(
        ...     observation=torch.randn(4, 8, 3),
        ...     returns_to_go=torch.randn(4, 8, 1),
        ...     mask=torch.ones(4, 8, dtype=torch.bool),
        ...     batch_size=[4, 8],
        ... )
        >>> loss_module(plans)["loss_generator"].backward()
    """

    @dataclass
    class _AcceptedKeys:
        """Keys of the batch of plans.

        Attributes:
            observation: the plan's states [B, H, O], the present first.
            returns_to_go: the conditions [B, H, 1], of which the first is read.
            mask: bool [B, H], True for real states.
        """

        observation: NestedKey = "observation"
        returns_to_go: NestedKey = "returns_to_go"
        mask: NestedKey = "mask"

    default_keys = _AcceptedKeys
    out_keys = ["loss_generator"]  # noqa: RUF012

    generator_network: PlanGenerator
    generator_network_params: TensorDictParams
    target_generator_network_params: TensorDictParams

    def __init__(self, generator_network: PlanGenerator) -> None:
        super().__init__(generator_network, "generator_network", "mean")

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Computes ``loss_generator`` of a batch of plans [B, H]."""
        keys = self.tensor_keys
        plan, mask = tensordict.get(keys.observation), tensordict.get(keys.mask)[:, 1:]
        condition = tensordict.get(keys.returns_to_go)[:, 0]
        generator = self.generator_network
        scale = generator.scale[1:]  # [H - 1, O]
        moved = (plan[:, 1:] - plan[:, :1]) / scale.clamp(min=1e-12) * (scale > 0)
        with self.generator_network_params.to_module(generator):
            error = generator.displacement(plan[:, 0], condition) - moved
        error = error.square().mean(-1).where(mask, 0.0)  # [B, H - 1]
        return TensorDict({"loss_generator": error.sum() / mask.sum().clamp(min=1)})


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
