"""How Trajectory Diffuser is trained: its parts' losses on windows, and the averaged refiner."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.data import TensorDictReplayBuffer
from torchrl.objectives import LossModule, SoftUpdate, TargetNetUpdater

from torchrl_td.baselines import Algorithm
from torchrl_td.checkpoint.build import sampler_settings
from torchrl_td.config import plan_horizon
from torchrl_td.modules.trajectory_diffuser import TrajectoryDiffuser
from torchrl_td.objectives import (
    DiffusionRefinerLoss,
    InverseDynamicsLoss,
    PlanCriticLoss,
    TrajectoryGeneratorLoss,
)
from torchrl_td.training.buffers import make_buffer


class SoftUpdateAtOnce(SoftUpdate):
    """TorchRL's ``SoftUpdate`` of one network's target weights, as one operation over all.

    Going through the weights one after the other takes half of the optimiser's time in preset
    ``small``.

    Args:
        loss: with target weights of the network.
        network: its name there.
        decay: share of the targets that a step keeps.
    """

    def __init__(self, loss: LossModule, network: str, decay: float) -> None:
        super().__init__(loss, eps=decay)
        sources = dict(getattr(loss, f"{network}_params").flatten_keys(".").items())
        targets = dict(getattr(loss, f"target_{network}_params").flatten_keys(".").items())
        names = [name for name, value in sources.items() if value.requires_grad]
        self._fast = [sources[name].data for name in names]
        self._slow = [targets[name].data for name in names]

    @torch.no_grad()
    def step(self) -> None:
        """Moves the targets by a step."""
        torch._foreach_lerp_(self._slow, self._fast, 1 - self.eps)


class TrajectoryDiffuserTraining(Algorithm):
    """Generator, refiner, inverse dynamics and, if wanted, critic on the same windows."""

    shares_batches = True
    model: TrajectoryDiffuser

    def make_losses(self) -> dict[str, Any]:
        model, losses = self.model, {}
        if model.generator is not None:
            losses["generator"] = TrajectoryGeneratorLoss(model.generator)
        losses["refiner"] = self.refiner_loss(model)
        losses["inverse_dynamics"] = InverseDynamicsLoss(model.inverse_dynamics)
        if model.critic is not None:
            losses["critic"] = PlanCriticLoss(model.critic)
        return losses

    def refiner_loss(self, model: Any, *, delay: bool = True) -> DiffusionRefinerLoss:
        """The loss of a model's refiner, which keeps averaged weights (the EMA) if ``delay``."""
        return DiffusionRefinerLoss(
            model.refiner(**sampler_settings(self.config.planner)),
            plan_horizon(self.config),
            condition_dropout=self.config.refiner.condition_dropout,
            max_step=self.config.refiner.max_step,
            delay_refiner=delay,
        )

    def make_updaters(self) -> list[TargetNetUpdater]:
        decay = self.config.training.ema_decay
        return [SoftUpdateAtOnce(self.losses["refiner"], "refiner_network", decay)]

    def make_buffers(
        self, normalized: TensorDictBase, batch_size: int, seed: int, device: torch.device
    ) -> dict[str, TensorDictReplayBuffer]:
        horizon, tilt = self.config.task.horizon, self.config.training.return_tilt
        buffer = make_buffer(normalized, horizon, batch_size, seed, device, return_tilt=tilt)
        return {"windows": buffer}

    def rows(self, batch: TensorDictBase) -> Tensor:
        return batch["index"][:, self.config.task.horizon - 2]

    def weight_decay(self, part: str) -> float:
        return self.config.training.refiner_weight_decay if part == "refiner" else 0.0

    def validation_losses(self) -> list[tuple[str, nn.Module, str]]:
        """The parts', and the refiner's with its averaged weights."""
        averaged = self.refiner_loss(self.acting_model(), delay=False)
        return [*super().validation_losses(), ("refiner", averaged, "_ema")]

    def acting_state(self) -> dict[str, Tensor]:
        """Of the parts, with the refiner's averaged weights."""
        state = dict(self.model.state_dict())
        average = self.losses["refiner"].target_refiner_network_params.data.flatten_keys(".")
        for key, value in average.items():
            if key.startswith("network."):
                state["refiner_" + key] = value
        return state

    def networks_to_compile(self) -> list[nn.Module]:
        """The networks alone: what is random stays outside, and so the same."""
        generator = self.model.generator
        drafting = [] if generator is None else [generator.network]
        return [*drafting, self.model.refiner_network]

    def masks(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """All of a window for most; the refiner learns from the plan after the present."""
        masks = dict.fromkeys(self.losses, batch["mask"])
        plan = slice(-self.config.task.horizon + 1, None)
        return {**masks, "refiner": batch["mask"][:, plan]}

    def take_shard(self, rank: int, size: int) -> None:
        self.losses["refiner"].shard = (rank, size)
