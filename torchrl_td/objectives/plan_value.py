"""The loss of the value that scores plans, and the bounds of what a plan can bring."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_td.errors import InputError
from torchrl_td.modules import PlanValue
from torchrl_td.modules.common import first_width
from torchrl_td.modules.plan_parts import members_of
from torchrl_td.objectives.common import Reduction, WindowLoss, hide_masked, per_step

_PARTS = ("reward", "end", "discount")  # of an outcome
_GIVEN = ("outcome", "members")  # where they are known already
_SMALLEST = 1e-5  # error whose logarithm still counts: a state with one outcome has none
_SPREAD_WEIGHT = 0.1  # of the logarithms, which are of the size of several standard deviations


def outcome_bounds(reward: Tensor, discount: float, terminates: bool) -> tuple[float, float]:
    """Least and most that a sum of discounted rewards can be: the worst, or best, one for ever.

    Args:
        reward: all rewards of the data.
        discount: γ, of a reward one step on; 1 bounds nothing.
        terminates: whether episodes end early, after which there is no reward.

    >>> outcome_bounds(torch.tensor([0.0, 1.0]), 0.99, terminates=False)
    (0.0, 100.0)
    """
    if discount >= 1:
        return -math.inf, math.inf
    for_ever = 1 / (1 - discount)
    least, most = (round(float(r) * for_ever, 6) for r in (reward.min(), reward.max()))
    return (min(least, 0.0), max(most, 0.0)) if terminates else (least, most)


class PlanValueLoss(WindowLoss):
    """Expectile regression of V, and regression of the outcomes' mean and spread.

    The outcome of a plan is its discounted reward and the discounted value of its last state,
    by target weights. V is regressed on it with errors below 0 weighted by 1 − τ and above by τ
    (IQL's eq. 5, on states alone). A value that is said as its logarithm has two errors, of itself
    and of the logarithm: near a reward the first shows what is best, far from one the second.

    Args:
        plan_value_network (PlanValue): the value.

    Keyword Args:
        expectile (float): τ, between 0.5, the mean, and 1, the maximum.
        bounds (tuple of float, optional): least and most that an outcome can be, as
            :func:`outcome_bounds` finds them; outcomes are clipped to them, for a value that
            holds more than the best reward for ever is wrong, and spreads by its own targets.
        reduction (str, optional): ``"mean"``, which ``None`` stands for, ``"sum"`` or
            ``"none"``.

    Raises:
        InputError: if the expectile is out of its range, or the reduction is unknown; in use, if
            an entry is of another shape.
        KeyError: in use, if the batch lacks an entry.

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
            outcome: what :meth:`outcome` gives [B, 1], where it is known already.
            members: what :meth:`PlanValue.members` gives for the states [B, M, 3], with its
                gradient, where it is known already; the states are then all real, for a mask
                comes too late to keep a NaN out of that gradient.
            scored: [B] or [B, 1], False for plans that V alone learns from, and not what outcomes
                are usual; the mean error of V of the two kinds is added. Where it is missing,
                all are scored.
            mask: [B] or [B, 1], True for the plans that count; where it is missing, all do.
        """

        observation: NestedKey = "observation"
        reward: NestedKey = ("plan", "reward")
        end: NestedKey = ("plan", "end")
        discount: NestedKey = ("plan", "discount")
        outcome: NestedKey = ("plan", "outcome")
        members: NestedKey = ("plan", "members")
        scored: NestedKey = ("plan", "scored")
        mask: NestedKey = "mask"

    default_keys = _AcceptedKeys
    optional_keys = (*WindowLoss.optional_keys, "outcome", "members", "scored")
    default_out_keys = ("loss_plan_value", "value_error", "outcome_error")
    module_reads = ("observation",)

    plan_value_network: PlanValue
    plan_value_network_params: TensorDictParams
    target_plan_value_network_params: TensorDictParams

    def __init__(
        self,
        plan_value_network: PlanValue,
        *,
        expectile: float = 0.95,
        bounds: tuple[float, float] | None = None,
        reduction: Reduction | None = "mean",
    ) -> None:
        super().__init__(
            plan_value_network, "plan_value_network", reduction, create_target_params=True
        )
        if not 0.5 <= expectile < 1:
            raise InputError(f"expectile must lie in 0.5..1, 1 excluded, got {expectile}")
        self.expectile = expectile
        self.bounds = bounds

    @property
    def _width(self) -> int | None:
        """O, as far as the network tells it."""
        return first_width(members_of(self.plan_value_network.network)[0])

    @torch.no_grad()
    def outcome(self, tensordict: TensorDictBase) -> Tensor:
        """Outcomes y [B, 1] of the plans of a batch, by the target weights."""
        reward, end, discount = self._read(tensordict, *_PARTS, O=self._width)
        with self.target_plan_value_network_params.to_module(self.plan_value_network):
            outcome = reward + discount * self.plan_value_network.value(end)
        return outcome if self.bounds is None else outcome.clamp(*self.bounds)

    @dispatch(source="keyword_keys")
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Computes the loss of a batch of plans of any shape.

        Returns:
            ``loss_plan_value`` and, detached, ``value_error`` and ``outcome_error``.
        """
        keys = self.tensor_keys
        given = [n for n in _GIVEN if tensordict.get(getattr(keys, n), None) is not None]
        names = ["observation", *given, *(() if "outcome" in given else _PARTS)]
        read = dict(zip(names, self._read(tensordict, *names, O=self._width), strict=True))
        observation, members = read["observation"], read.get("members")
        _, counted = self._masks(tensordict, observation)
        outcome = read["outcome"] if "outcome" in given else self.outcome(tensordict)
        observation, outcome = hide_masked(counted, observation, outcome)
        if members is None:
            with self.plan_value_network_params.to_module(self.plan_value_network):
                members = self.plan_value_network.members(observation)
        value, mean, log_error = members.unbind(-1)  # each [..., M]
        error, off = outcome - value, outcome - mean
        weight = torch.where(error > 0, self.expectile, 1 - self.expectile).to(error.dtype)
        log_off = off.detach().abs().clamp(min=_SMALLEST).log()
        scored, key = counted, keys.scored
        if (mask := tensordict.get(key, None)) is not None:
            scored = counted & per_step(mask, observation, key)
        missed = error.square()
        if self.plan_value_network.symlog_unit is not None:
            logarithm = self.plan_value_network.logarithm
            missed = missed + (logarithm(outcome) - logarithm(value)).square()
        value_error, mean_error, spread_error = (
            self._reduced(each, scored)
            for each in (weight * missed, off.square(), (log_off - log_error).square())
        )
        if mask is not None:
            value_error = value_error + self._reduced(weight * missed, counted & ~scored)
        return TensorDict(
            {
                "loss_plan_value": value_error + mean_error + _SPREAD_WEIGHT * spread_error,
                "value_error": value_error.detach(),
                "outcome_error": mean_error.detach(),
            }
        )
