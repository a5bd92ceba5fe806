"""How Trajectory Diffuser is trained: its parts' losses on windows, and the averaged refiner."""

from __future__ import annotations

import copy
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.data import TensorDictReplayBuffer
from torchrl.objectives import LossModule, SoftUpdate, TargetNetUpdater

from torchrl_td.baselines import Algorithm
from torchrl_td.checkpoint.build import sampler_settings
from torchrl_td.config import Config
from torchrl_td.modules.trajectory_diffuser import TrajectoryDiffuser
from torchrl_td.objectives import (
    DiffusionRefinerLoss,
    InverseDynamicsLoss,
    PlanCriticLoss,
    TrajectoryGeneratorLoss,
)
from torchrl_td.training.buffers import make_buffer


def make_losses(
    model: TrajectoryDiffuser, config: Config, *, delay_refiner: bool = True
) -> dict[str, Any]:
    """The loss module of each trained part, by the part's name.

    Args:
        model: the parts.
        config: the run's settings.
        delay_refiner: whether the refiner's loss keeps averaged weights (the EMA).
    """
    losses: dict[str, Any] = {}
    if model.generator is not None:
        losses["generator"] = TrajectoryGeneratorLoss(model.generator)
    losses |= {
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
        return make_losses(self.model, self.config)

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
        refiner = make_losses(self.averaged_model(), self.config, delay_refiner=False)["refiner"]
        return [*super().validation_losses(), ("refiner", refiner, "_ema")]

    def averaged_model(self) -> TrajectoryDiffuser:
        """A copy of the model with the refiner's averaged weights."""
        averaged = copy.deepcopy(self.model)
        averaged.load_state_dict(self.acting_state())
        return averaged

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
