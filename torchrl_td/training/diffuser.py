"""How Diffuser is trained: a noise model without condition, and a value of noised plans."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import nn

from torchrl_td.modules.refiner import DiffusionRefiner
from torchrl_td.modules.value_guidance import GuidedDiffuser
from torchrl_td.objectives import DiffusionRefinerLoss, InverseDynamicsLoss
from torchrl_td.training.trajectory_diffuser import TrajectoryDiffuserTraining


class DiffuserTraining(TrajectoryDiffuserTraining):
    """Noise model, value and inverse dynamics on the same windows."""

    shares_batches = False

    def make_losses(self) -> dict[str, Any]:
        model, horizon = self.model, self.config.task.horizon
        assert isinstance(model, GuidedDiffuser)
        plain = DiffusionRefiner(
            model.refiner_network, model.schedule, refine_steps=0, coordinates=model.coordinates
        )
        return {
            "refiner": DiffusionRefinerLoss(
                plain, horizon, condition_dropout=1.0, delay_refiner=True
            ),
            "inverse_dynamics": InverseDynamicsLoss(model.inverse_dynamics),
            "noisy_value": NoisyPlanValueLoss(model, horizon),
        }

    def validation_losses(self) -> list[tuple[str, nn.Module, str]]:
        return [(name, loss, "") for name, loss in self.losses.items()]


class NoisyPlanValueLoss(nn.Module):
    """Mean squared error of a noised plan's value against the scaled returns-to-go at its start.

    Args:
        model: with the value, the noise schedule and the coordinates.
        horizon: H.
    """

    def __init__(self, model: GuidedDiffuser, horizon: int) -> None:
        super().__init__()
        self.value, self.horizon = model.noisy_value, horizon
        self.schedule, self.coordinates = model.schedule, model.coordinates

    def forward(self, batch: TensorDictBase) -> TensorDict:
        """Computes ``loss_noisy_value`` of a batch of windows [B, T]."""
        plan = batch["observation"][:, -self.horizon :]  # [B, H, O]
        target = batch["returns_to_go"][:, -self.horizon]  # [B, 1]
        clean = self.coordinates.encode(plan)
        steps = self.schedule.denoising_steps
        step = torch.randint(1, steps + 1, clean.shape[:1], device=clean.device)
        noisy = self.schedule.add_noise(clean, torch.randn_like(clean), step)
        noisy = torch.cat([clean[:, :1], noisy[:, 1:]], 1)  # the present is pinned
        return TensorDict({"loss_noisy_value": (self.value(noisy, step) - target).square().mean()})
