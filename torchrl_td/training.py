"""Training: three losses on one batch of windows."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.objectives import SoftUpdate
from torchrl.objectives.common import LossModule

from torchrl_td.config import Config, TrainingConfig
from torchrl_td.data.normalizer import Normalizer
from torchrl_td.data.windows import WindowSampler
from torchrl_td.modules.build import Scales, TrajectoryDiffuser
from torchrl_td.objectives import (
    DiffusionRefinerLoss,
    InverseDynamicsLoss,
    PlanCriticLoss,
    TrajectoryGeneratorLoss,
)

_TRAINED_ON = (
    "observation",
    "action",
    "returns_to_go",
    "episode",
    ("next", "observation"),
    ("next", "returns_to_go"),
)


def make_buffer(
    normalized: TensorDictBase, horizon: int, batch_size: int, seed: int, device: torch.device
) -> TensorDictReplayBuffer:
    """A replay buffer that yields windows [B, T] of a normalised dataset [N]."""
    data = normalized.select(*_TRAINED_ON).to(device)
    storage = LazyTensorStorage(len(data), device=device)
    buffer = TensorDictReplayBuffer(
        storage=storage, sampler=WindowSampler(horizon, seed=seed), batch_size=batch_size
    )
    buffer.extend(data)
    return buffer


def make_losses(model: TrajectoryDiffuser, config: Config) -> dict[str, LossModule]:
    """The loss module of each trained part, by the part's name."""
    losses: dict[str, LossModule] = {
        "generator": TrajectoryGeneratorLoss(model.generator),
        "refiner": DiffusionRefinerLoss(
            model.refiner(config.planner),
            config.task.horizon,
            condition_dropout=config.refiner.condition_dropout,
            max_step=config.refiner.max_step,
            delay_refiner=True,
        ),
        "inverse_dynamics": InverseDynamicsLoss(model.inverse_dynamics),
    }
    if model.critic is not None:
        losses["critic"] = PlanCriticLoss(model.critic)
    return losses


def make_optimizer(
    losses: dict[str, LossModule], settings: TrainingConfig
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """One AdamW over all parts (Adam where the decay is 0) and its linear decay."""
    groups = []
    for name, loss in losses.items():
        decay = settings.refiner_weight_decay if name == "refiner" else 0.0
        parameters = [p for p in loss.parameters() if p.requires_grad]
        groups.append({"params": parameters, "weight_decay": decay, "name": name})
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    final = settings.final_learning_rate_share

    def factor(step: int) -> float:
        return 1 - (1 - final) * min(step / settings.decay_steps, 1.0)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
