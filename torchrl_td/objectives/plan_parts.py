"""Losses of the parts that make a plan in one evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from tensordict.utils import NestedKey

from torchrl_td.errors import InputError
from torchrl_td.modules import PlanGenerator, PlanInverseDynamics
from torchrl_td.modules.choices import action_error
from torchrl_td.objectives.common import Reduction, WindowLoss, hide_masked


class PlanGeneratorLoss(WindowLoss):
    """Mean squared error of a plan's displacements, in units of their root mean square.

    Each network of an ensemble learns from its own error: its gradient is the one that it would
    have alone, divided by their number.

    The plan is the last H entries of the window, from the present on, which carries no loss.

    Args:
        generator_network (PlanGenerator): the generator.

    Keyword Args:
        reduction (str, optional): ``"mean"``, which ``None`` stands for, ``"sum"`` or
            ``"none"``.

    Raises:
        InputError: if the reduction is unknown; in use, if the windows are shorter than H, or
            an entry is of another shape.
        KeyError: in use, if the batch lacks an entry.

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
        """Keys of the window.

        Attributes:
            observation: states [B, T, O].
            returns_to_go: the conditions [B, T, 1], of which the present one is read.
            mask: [B, T] or [B, T, 1], True for real steps; where it is missing, all are.
        """

        observation: NestedKey = "observation"
        returns_to_go: NestedKey = "returns_to_go"
        mask: NestedKey = "mask"

    default_keys = _AcceptedKeys
    default_out_keys = ("loss_generator",)
    module_reads = ("observation", "returns_to_go")

    generator_network: PlanGenerator
    generator_network_params: TensorDictParams
    target_generator_network_params: TensorDictParams

    def __init__(
        self, generator_network: PlanGenerator, *, reduction: Reduction | None = "mean"
    ) -> None:
        super().__init__(generator_network, "generator_network", reduction)

    @dispatch(source="keyword_keys")
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Computes ``loss_generator`` of a batch of windows [T], [B, T] or [A, B, T]."""
        generator = self.generator_network
        horizon, width = generator.scale.shape
        observation, returns_to_go = self._read(tensordict, "observation", "returns_to_go", O=width)
        if observation.shape[-2] < horizon:
            raise InputError(
                f"the windows have {observation.shape[-2]} steps, fewer than the plan's {horizon}"
            )
        real, counted = self._masks(tensordict, observation)
        counted = counted & real[..., -horizon, None]  # nothing is planned from padding
        (plan,) = hide_masked(counted, observation)
        plan, counted = plan[..., -horizon:, :], counted[..., 1 - horizon :]
        present, condition = observation[..., -horizon, :], returns_to_go[..., -horizon, :]
        present, condition = hide_masked(real[..., -horizon], present, condition)
        with self.generator_network_params.to_module(generator):
            scale = generator.scale[1:]  # [H - 1, O]
            moved = (plan[..., 1:, :] - present.unsqueeze(-2)) / scale.clamp(min=1e-12)
            members = generator.members(present, condition)  # [..., M, H - 1, O]
        error = members - (moved * (scale > 0)).unsqueeze(-3)
        error = error.square().mean(-1, keepdim=True).mean(-3)  # [..., H - 1, 1]
        loss = self._reduced(error, counted)
        if self.reduction == "none":
            loss = torch.cat([torch.zeros_like(loss[..., :1, :]), loss], -2)
        return TensorDict({"loss_generator": loss})


class PlanInverseDynamicsLoss(WindowLoss):
    """Mean squared error of the action, from the plan that the planner would make there.

    Cross entropy where the actions are choices. Each network of an ensemble learns from its own
    error on the ensemble's drafts: its gradient is the one that it would have alone, divided by
    their number.

    Args:
        inverse_dynamics_network (PlanInverseDynamics): the inverse dynamics.

    Keyword Args:
        reduction (str, optional): ``"mean"``, which ``None`` stands for, ``"sum"`` or
            ``"none"``.

    Raises:
        InputError: if the reduction is unknown; in use, if an entry is of another shape.
        KeyError: in use, if the batch lacks an entry.

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
            mask: [B] or [B, 1], True for the plans that count; where it is missing, all do.
        """

        draft: NestedKey = ("plan", "draft")
        condition: NestedKey = "condition"
        action: NestedKey = "action"
        mask: NestedKey = "mask"

    default_keys = _AcceptedKeys
    default_out_keys = ("loss_inverse_dynamics",)
    module_writes = "action"

    inverse_dynamics_network: PlanInverseDynamics
    inverse_dynamics_network_params: TensorDictParams
    target_inverse_dynamics_network_params: TensorDictParams

    def __init__(
        self,
        inverse_dynamics_network: PlanInverseDynamics,
        *,
        reduction: Reduction | None = "mean",
    ) -> None:
        super().__init__(inverse_dynamics_network, "inverse_dynamics_network", reduction)

    @dispatch(source="keyword_keys")
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Computes ``loss_inverse_dynamics`` of a batch of plans of any shape."""
        width = self.inverse_dynamics_network.inverse_scale.shape[-1]
        draft, condition, action = self._read(tensordict, "draft", "condition", "action", O=width)
        _, counted = self._masks(tensordict, action)
        condition, action = hide_masked(counted, condition, action)
        (draft,) = hide_masked(counted.unsqueeze(-1), draft)
        with self.inverse_dynamics_network_params.to_module(self.inverse_dynamics_network):
            members = self.inverse_dynamics_network.members(draft, condition)  # [..., M, A]
        self._check_width("action", action, members.shape[-1])
        choices = self.inverse_dynamics_network.choices
        error = action_error(members, action.unsqueeze(-2), choices).mean(-2)
        return TensorDict({"loss_inverse_dynamics": self._reduced(error, counted)})
