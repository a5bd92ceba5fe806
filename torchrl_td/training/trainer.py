"""Training: three losses on one batch of windows, one optimiser, an EMA of the refiner."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchrl.objectives.common import LossModule

from torchrl_td.checkpoint.build import build_model
from torchrl_td.config import Config, TrainingConfig
from torchrl_td.data.normalizer import Normalizer
from torchrl_td.modules.trajectory_diffuser import Scales, TrajectoryDiffuser
from torchrl_td.training.buffers import make_buffer, split_episodes
from torchrl_td.training.cuda_graph import CudaGraphStep, check_cuda_graph
from torchrl_td.training.distributed import World
from torchrl_td.training.joint_loss import AveragedRefiner, JointLoss, make_losses
from torchrl_td.training.monitors import DivergenceWatch, RunningMeans
from torchrl_td.training.random_state import RandomState, own_randomness, seed_everything

_VALIDATION_BATCH = 256
_NORM = "gradient_norm/"


def make_optimizer(
    losses: dict[str, LossModule], settings: TrainingConfig
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """One AdamW over all parts (Adam where the decay is 0) and its linear decay."""
    groups = []
    for name, loss in losses.items():
        decay = settings.refiner_weight_decay if name == "refiner" else 0.0
        parameters = [p for p in loss.parameters() if p.requires_grad]
        groups.append({"params": parameters, "weight_decay": decay, "name": name})
    rate = settings.learning_rate
    optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
    for group in optimizer.param_groups:
        group["initial_lr"] = rate  # for the scheduler, which would take the tensor otherwise
    _fit_for_capture(optimizer, settings.cudagraph)
    final = settings.final_learning_rate_share

    def factor(step: int) -> float:
        return 1 - (1 - final) * min(step / settings.decay_steps, 1.0)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _fit_for_capture(optimizer: torch.optim.Optimizer, captured: bool) -> None:
    """In a CUDA graph a learning rate must be a tensor on the device that stays where it is."""
    for group in optimizer.param_groups:
        rate, device = float(group["lr"]), group["params"][0].device
        group["lr"] = torch.tensor(rate, device=device) if captured else rate
        group["capturable"] = captured


class Trainer:
    """Holds everything that training changes, and takes one step at a time.

    Args:
        config: the run's settings.
        episodes: the raw dataset [N] from :func:`~torchrl_td.data.load_episodes`.
        device: where to train; the dataset goes there too.
        world: this process' place among those of the run.

    Raises:
        InputError: if the data cannot be trained on with these settings, or the device or the
            number of processes does not allow ``training.cudagraph``.
    """

    def __init__(
        self,
        config: Config,
        episodes: TensorDictBase,
        device: torch.device,
        world: World | None = None,
    ) -> None:
        settings, horizon = config.training, config.task.horizon
        self.config, self.device, self.world = config, device, world or World()
        if settings.cudagraph:
            check_cuda_graph(device, self.world)
        self.step = 0
        seed_everything(config.seed)
        self.rows, validation = split_episodes(
            episodes, config.dataset.validation_share, config.seed, horizon
        )
        train = episodes if validation is None else episodes[self.rows]
        normalizer = Normalizer.fit(train, config.task.returns_scale)
        train = normalizer.apply_to(train)
        widths = (episodes["observation"].shape[-1], episodes["action"].shape[-1])
        scales = Scales.fit(train, horizon)
        self.model = build_model(config, *widths, normalizer, scales).to(device)
        self.losses = make_losses(self.model, config)
        self.ema = AveragedRefiner(self.losses["refiner"], settings.ema_decay)
        self.joint_loss = self._joint_loss()
        self.optimizer, self.scheduler = make_optimizer(self.losses, settings)
        self._optimize = self._optimization()
        self.buffer = make_buffer(train, horizon, settings.batch_size, config.seed, device)
        self.validation = None
        if validation is not None:
            held_out = normalizer.apply_to(episodes[validation])
            self.validation = make_buffer(held_out, horizon, _VALIDATION_BATCH, 0, device)
        self.means = RunningMeans()
        self.watch = DivergenceWatch(settings.explosion)

    def train_step(self) -> None:
        """One optimisation step; nothing here waits for the device."""
        batch = self.buffer.sample().to(self.device)
        metrics = self._optimize(batch)
        self.scheduler.step()
        self.step += 1
        total = metrics.pop("total")
        self.means.add(metrics)
        norms = [value for name, value in metrics.items() if name.startswith(_NORM)]
        present = batch["index"][:, self.config.task.horizon - 2].clone()  # [B], of its own memory
        self.watch.note(total, norms, present)

    def optimize(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Losses, gradients, their clipping, the optimiser and the EMA, on a batch [B, T].

        All of it on tensors that stay where they are, so that it can be captured in a CUDA graph.

        Returns:
            ``total`` and each loss and its parts, and each part's ``gradient_norm/…``; detached.
        """
        metrics = self.joint_loss(*self._share(batch))
        metrics["total"].backward()
        norms = self._clip_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step()
        return {**metrics, "total": metrics["total"].detach(), **norms}

    @torch.no_grad()
    def validate(self, batches: int = 4) -> dict[str, float]:
        """Losses on the held-out episodes, always on the same windows and noise.

        Returns:
            ``loss_<part>`` of each part, and ``loss_refiner_ema`` with the averaged weights.
        """
        if self.validation is None:
            return {}
        sampler: Any = self.validation.sampler
        losses = {f"loss_{name}": (f"loss_{name}", loss) for name, loss in self.losses.items()}
        averaged = make_losses(self.planner_model(), self.config, delay_refiner=False)["refiner"]
        losses["loss_refiner_ema"] = ("loss_refiner", averaged)
        totals = dict.fromkeys(losses, 0.0)
        sampler.reseed(0)
        self.losses["refiner"].shard = (0, 1)
        for number in range(batches):
            batch = self.validation.sample().to(self.device)
            for name, (key, loss) in losses.items():
                with own_randomness(number):  # the same noise for both refiners
                    totals[name] += float(loss(batch)[key]) / batches
        self.losses["refiner"].shard = (self.world.rank, self.world.size)
        return totals

    def read_metrics(self) -> dict[str, float]:
        """Means since they were last read, over the steps and over all processes."""
        names, values = zip(*self.means.read().items(), strict=True)
        reduced = self.world.mean(torch.tensor(values, dtype=torch.float64, device=self.device))
        means = dict(zip(names, reduced.tolist(), strict=True))
        if self.watch.usual_loss is None:
            self.watch.usual_loss = sum(v for k, v in means.items() if k.startswith("loss_"))
        return means

    def learning_rate(self) -> float:
        """The learning rate of the last step; of the first before any."""
        factor = self.scheduler.lr_lambdas[0]
        return float(self.scheduler.base_lrs[0] * factor(max(self.step - 1, 0)))

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
        model = copy.deepcopy(self.model)
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
            "means": self.means.state_dict(),
            "watch": self.watch.state_dict(),
            "rng": RandomState(self.device).state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        for name, loss in self.losses.items():
            loss.load_state_dict(state["losses"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        _fit_for_capture(self.optimizer, self.config.training.cudagraph)
        self._optimize = self._optimization()  # a graph would go on with the states replaced
        self.scheduler.load_state_dict(state["scheduler"])
        self.buffer.sampler.load_state_dict(state["sampler"])
        self.means.load_state_dict(state["means"], self.device)
        self.watch.load_state_dict(state["watch"])
        RandomState(self.device).load_state_dict(state["rng"])
        self.step = state["step"]

    def check_health(self) -> None:
        """Stops a run that has diverged in the steps since the last check.

        Raises:
            InputError: see :class:`~torchrl_td.training.monitors.DivergenceWatch`.
        """
        noted = self.watch.take()
        if noted is not None:
            values, rows = noted
            rows = [self.rows[row.cpu()] for row in rows]
            self.watch.check(self.world.mean(values).cpu(), rows, self.step)

    def _optimization(self) -> Callable[[TensorDictBase], dict[str, Tensor]]:
        if self.config.training.cudagraph:
            return CudaGraphStep(self.optimize, self.device)
        return self.optimize

    def _joint_loss(self) -> nn.Module:
        settings = self.config.training
        if settings.compile:
            # The networks alone: what is random stays outside, and so the same.
            for network in (self.model.generator.network, self.model.refiner_network):
                network.compile()
        joint = JointLoss(self.losses, settings.autocast)
        if self.world.size == 1:
            return joint
        self.losses["refiner"].shard = (self.world.rank, self.world.size)
        return DistributedDataParallel(joint, broadcast_buffers=False)

    def _share(self, batch: TensorDictBase) -> tuple[TensorDictBase, dict[str, Tensor] | None]:
        """This process' rows, and what the mean loss over them counts in that over all."""
        if self.world.size == 1:
            return batch, None
        mine, plan = self.world.share(batch), slice(-self.config.task.horizon + 1, None)
        weight = self.world.weight(batch["mask"], mine["mask"])
        weights = dict.fromkeys(self.losses, weight)
        weights["refiner"] = self.world.weight(batch["mask"][:, plan], mine["mask"][:, plan])
        return mine, weights

    def _clip_gradients(self) -> dict[str, Tensor]:
        """Norm of each part's gradient before clipping; clips the whole."""
        groups = {
            group["name"]: [p.grad for p in group["params"] if p.grad is not None]
            for group in self.optimizer.param_groups
        }
        norms = {name: nn.utils.get_total_norm(grads) for name, grads in groups.items()}
        limit = self.config.training.gradient_clip
        if limit is not None:
            total = torch.linalg.vector_norm(torch.stack(list(norms.values())))
            factor = (limit / (total + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_([g for grads in groups.values() for g in grads], factor)
        return {_NORM + name: norm for name, norm in norms.items()}
