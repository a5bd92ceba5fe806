"""The losses of all parts on one batch, whole or one process' share of it."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.objectives import SoftUpdate
from torchrl.objectives.common import LossModule

from torchrl_td.checkpoint.build import sampler_settings
from torchrl_td.config import Config
from torchrl_td.modules.trajectory_diffuser import TrajectoryDiffuser
from torchrl_td.objectives import (
    DiffusionRefinerLoss,
    InverseDynamicsLoss,
    PlanCriticLoss,
    TrajectoryGeneratorLoss,
)


def make_losses(
    model: TrajectoryDiffuser, config: Config, *, delay_refiner: bool = True
) -> dict[str, Any]:
    """The loss module of each trained part, by the part's name.

    Args:
        model: the parts.
        config: the run's settings.
        delay_refiner: whether the refiner's loss keeps averaged weights (the EMA).
    """
    losses: dict[str, Any] = {
        "generator": TrajectoryGeneratorLoss(model.generator),
        "refiner": DiffusionRefinerLoss(
            model.refiner(**sampler_settings(config.planner)),
            config.task.horizon,
            condition_dropout=config.refiner.condition_dropout,
            max_step=config.refiner.max_step,
            delay_refiner=delay_refiner,
        ),
        "inverse_dynamics": InverseDynamicsLoss(model.inverse_dynamics),
    }
    if model.critic is not None:
        losses["critic"] = PlanCriticLoss(model.critic)
    return losses


class JointLoss(nn.Module):
    """Adds the parts' losses up.

    Args:
        losses: loss module of each part, by name; each writes ``loss_<name>``.
        autocast: whether to compute in bfloat16 where PyTorch's autocast holds that safe.
    """

    def __init__(self, losses: dict[str, LossModule], autocast: bool = False) -> None:
        super().__init__()
        self.losses = nn.ModuleDict(losses)
        self.autocast = autocast

    def forward(
        self, batch: TensorDictBase, weights: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The losses of a batch of windows [B, T].

        Args:
            batch: the windows.
            weights: factor on each part's loss, by the part's name; ``None`` takes 1.

        Returns:
            ``total``, to be differentiated, and each loss and its parts, detached.
        """
        total: Tensor | None = None
        metrics: dict[str, Tensor] = {}
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self.autocast):
            for name, module in self.losses.items():
                entries = module(batch)
                weight = 1.0 if weights is None else weights[name]
                for key, value in entries.items():
                    value = value.float() * weight
                    if key == f"loss_{name}":
                        total = value if total is None else total + value
                    metrics[key] = value.detach()
        assert total is not None
        return {"total": total, **metrics}


class AveragedRefiner(SoftUpdate):
    """TorchRL's ``SoftUpdate`` of the refiner's target weights, as one operation over all.

    Going through the weights one after the other takes half of the optimiser's time in preset
    ``small``.

    Args:
        loss: with ``delay_refiner``.
        decay: share of the average that a step keeps.
    """

    def __init__(self, loss: DiffusionRefinerLoss, decay: float) -> None:
        super().__init__(loss, eps=decay)
        sources = dict(loss.refiner_network_params.flatten_keys(".").items())
        targets = dict(loss.target_refiner_network_params.flatten_keys(".").items())
        names = [name for name, value in sources.items() if value.requires_grad]
        self._fast = [sources[name].data for name in names]
        self._slow = [targets[name].data for name in names]

    @torch.no_grad()
    def step(self) -> None:
        """Moves the average by a step."""
        torch._foreach_lerp_(self._slow, self._fast, 1 - self.eps)
