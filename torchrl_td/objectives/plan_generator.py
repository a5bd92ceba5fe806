"""Loss of the generator that drafts a whole plan at once."""

from __future__ import annotations

from dataclasses import dataclass

from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from tensordict.utils import NestedKey

from torchrl_td.modules.plan_generator import PlanGenerator
from torchrl_td.objectives.common import WindowLoss


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
