"""Training: three losses on one batch of windows, one optimiser, an EMA of the refiner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.checkpoint import GlobalRNGState
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.objectives import SoftUpdate
from torchrl.objectives.common import LossModule

from torchrl_td.config import Config, TrainingConfig
from torchrl_td.data.normalizer import Normalizer
from torchrl_td.data.windows import WindowSampler
from torchrl_td.errors import TDError
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


def split_episodes(
    episodes: TensorDictBase, share: float, seed: int
) -> tuple[TensorDictBase, TensorDictBase | None]:
    """Holds a share of whole episodes out for validation.

    Returns:
        The training and the validation data; ``None`` for the latter if the share is 0 or
        there are too few episodes to spare one.
    """
    number = episodes["episode"].reshape(-1)
    count = int(number.max()) + 1
    held_out = int(share * count)
    if held_out == 0:
        return episodes, None
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:held_out]
    mask = torch.zeros(count, dtype=torch.bool)
    mask[chosen] = True
    mask = mask[number]
    return episodes[~mask], episodes[mask]


class Trainer:
    """Holds everything that training changes, and takes one step at a time.

    Args:
        config: the run's settings.
        episodes: the raw dataset [N] from :func:`~torchrl_td.data.load_episodes`.
        device: where to train; the dataset goes there too.

    Raises:
        TDError: if the data cannot be trained on with these settings.
    """

    def __init__(self, config: Config, episodes: TensorDictBase, device: torch.device) -> None:
        settings, horizon = config.training, config.task.horizon
        self.config = config
        self.device = device
        self.step = 0
        torch.manual_seed(config.seed)
        train, validation = split_episodes(episodes, config.dataset.validation_share, config.seed)
        normalizer = Normalizer.fit(train, config.task.returns_scale)
        train = normalizer.apply_to(train)
        self.model = TrajectoryDiffuser(
            config,
            episodes["observation"].shape[-1],
            episodes["action"].shape[-1],
            normalizer,
            Scales.fit(train, horizon),
        ).to(device)
        self.losses = make_losses(self.model, config)
        self.optimizer, self.scheduler = make_optimizer(self.losses, settings)
        self.ema = SoftUpdate(self.losses["refiner"], eps=settings.ema_decay)
        self.buffer = make_buffer(train, horizon, settings.batch_size, config.seed, device)
        self.validation = None
        if validation is not None:
            validation = normalizer.apply_to(validation)
            self.validation = make_buffer(validation, horizon, 256, config.seed, device)

    def train_step(self) -> tuple[dict[str, Tensor], Tensor]:
        """One optimisation step.

        Returns:
            The losses and their parts as detached tensors on the device (nothing waits for
            them), and the batch's dataset indices [B, T].
        """
        batch = self.buffer.sample()
        metrics: dict[str, Tensor] = {}
        total = torch.zeros((), device=self.device)
        for name, loss in self.losses.items():
            parts = loss(batch)
            total = total + parts[f"loss_{name}"]
            metrics.update({key: value.detach() for key, value in parts.items()})
        total.backward()
        if self.config.training.gradient_clip is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.config.training.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        self.ema.step()
        self.step += 1
        return metrics, batch["index"]

    @torch.no_grad()
    def validate(self, batches: int = 4) -> dict[str, float]:
        """Losses on the held-out episodes, always on the same windows and noise."""
        if self.validation is None:
            return {}
        sampler: Any = self.validation.sampler
        totals: dict[str, float] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            sampler.reseed(0)
            for _ in range(batches):
                batch = self.validation.sample()
                for name, loss in self.losses.items():
                    key = f"loss_{name}"
                    totals[key] = totals.get(key, 0.0) + float(loss(batch)[key]) / batches
        return totals

    def learning_rate(self) -> float:
        """The present learning rate."""
        return self.scheduler.get_last_lr()[0]

    def planner_state(self) -> dict[str, Tensor]:
        """State dict of the parts with the refiner's EMA weights: what a planner uses."""
        state = dict(self.model.state_dict())
        ema = self.losses["refiner"].target_refiner_network_params.data.flatten_keys(".")
        for key, value in ema.items():
            if key.startswith("network."):
                state["refiner_" + key] = value
        return state

    def planner_model(self) -> TrajectoryDiffuser:
        """A copy of the parts with the refiner's EMA weights, for evaluation."""
        model = TrajectoryDiffuser(
            self.config,
            self.model.normalizer.loc.shape[0],
            self.model.inverse_dynamics.network[-1].out_features,
            Normalizer(self.model.normalizer.loc, self.model.normalizer.scale),
            Scales.empty(self.config.task.horizon, self.model.normalizer.loc.shape[0]),
        ).to(self.device)
        model.load_state_dict(self.planner_state())
        return model.eval()

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs to continue bit for bit."""
        return {
            "step": self.step,
            "losses": {name: loss.state_dict() for name, loss in self.losses.items()},
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "sampler": self.buffer.sampler.state_dict(),
            "rng": GlobalRNGState().state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        for name, loss in self.losses.items():
            loss.load_state_dict(state["losses"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.buffer.sampler.load_state_dict(state["sampler"])
        GlobalRNGState().load_state_dict(state["rng"])
        self.step = state["step"]

    def check_finite(self, losses: Tensor, indices: list[Tensor]) -> None:
        """Stops a run whose loss is no number any more.

        Args:
            losses: total loss of each step since the last check, shape [S].
            indices: dataset indices of each of these steps' batches.

        Raises:
            TDError: naming the step and the batch's windows.
        """
        bad = torch.nonzero(~torch.isfinite(losses)).flatten()
        if not len(bad):
            return
        first = int(bad[0])
        history = self.config.task.horizon - 2
        present = indices[first][:, history].tolist()
        step = self.step - len(losses) + first + 1
        raise TDError(
            f"the loss is not finite at step {step}, on the windows around dataset rows {present}; "
            f"the last checkpoint is kept: lower training.learning_rate or set "
            f"training.gradient_clip, then resume"
        )
