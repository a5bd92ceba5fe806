"""Training: an algorithm's losses on its batches, one optimiser, target networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from torchrl_td.checkpoint.model import make_model
from torchrl_td.checkpoint.start import Start
from torchrl_td.config import Config, plan_horizon, plan_stride, reads
from torchrl_td.data.choices import are_choices, with_float_actions
from torchrl_td.data.normalizer import Normalizer
from torchrl_td.envs import with_played_goals
from torchrl_td.errors import InputError
from torchrl_td.modules.trajectory_diffuser import Scales
from torchrl_td.training.algorithms import find_algorithm
from torchrl_td.training.buffers import draws_state, restore_draws, split_episodes
from torchrl_td.training.cuda_graph import CudaGraphStep, check_cuda_graph
from torchrl_td.training.distributed import World
from torchrl_td.training.joint_loss import JointLoss
from torchrl_td.training.monitors import DivergenceWatch, RunningMeans
from torchrl_td.training.optimizer import fit_for_capture, make_optimizer, restart_schedule
from torchrl_td.training.products import products_of
from torchrl_td.training.random_state import RandomState, own_randomness, seed_everything

_VALIDATION_BATCH = 256
_NORM = "gradient_norm/"


class Trainer:
    """Holds everything that training changes, and takes one step at a time.

    Args:
        config: the run's settings.
        episodes: the raw dataset [N] from :func:`~torchrl_td.data.load_episodes`.
        device: where to train; the dataset goes there too.
        world: this process' place among those of the run.
        action_bounds: lowest and highest actions [A]; ``None`` takes the data's.
        start: weights to start from; ``None`` draws them.

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
        action_bounds: tuple[Tensor, Tensor] | None = None,
        start: Start | None = None,
    ) -> None:
        settings, horizon, stride = config.training, plan_horizon(config), plan_stride(config)
        self.config, self.device, self.world = config, device, world or World()
        if settings.cudagraph:
            check_cuda_graph(device, self.world)
        self.step = 0
        seed_everything(config.seed)
        if config.value.played_goal_share and reads(config, "value.played_goal_share"):
            episodes = with_played_goals(episodes, config.task, config.seed)
        self.rows, validation = split_episodes(
            episodes, config.dataset.validation_share, config.seed, (horizon - 1) * stride + 1
        )
        train = episodes if validation is None else episodes[self.rows]
        normalizer = Normalizer.fit(train, config.task.returns_scale, action_bounds)
        if start is not None:
            normalizer = start.normalizer(normalizer, episodes["action"])
        train = with_float_actions(normalizer.apply_to(train))
        # Before the model takes the normalizer to its device: the episodes stay where they are.
        held_out = None
        if validation is not None:
            held_out = with_float_actions(normalizer.apply_to(episodes[validation]))
        bounds = action_bounds or _bounds(train, normalizer)
        scales = Scales.fit(train, horizon, stride)
        choices = are_choices(episodes)
        model = make_model(config, normalizer, scales, *bounds, choices=choices).to(device)
        if start is not None:
            start.give_weights(model)
        self.algorithm = find_algorithm(config)(model, config)
        if start is not None:
            start.give_critics(self.losses)
            self.algorithm.units.update(start.units)
        if self.world.size > 1 and not self.algorithm.shares_batches:
            raise InputError(
                f"algorithm={config.algorithm.name} trains in one process, this run has "
                f"{self.world.size}; start a single one"
            )
        kept = self.algorithm.keep(train)
        if kept is not None:
            self.rows, train = self.rows[kept], train[kept]
        self.joint_loss = self._joint_loss()
        self.optimizer, self.scheduler = make_optimizer(self.algorithm)
        self._optimize = self._optimization()
        self.products = products_of(self.model, device)
        self.buffers = self.algorithm.make_buffers(train, settings.batch_size, config.seed, device)
        self.validation: dict[str, Any] = {}
        if held_out is not None:
            self.validation = self.algorithm.make_buffers(held_out, _VALIDATION_BATCH, 0, device)
        self.means = RunningMeans()
        self.watch = DivergenceWatch(settings.explosion)

    @property
    def model(self) -> Any:
        """What is trained, as a checkpoint holds it."""
        return self.algorithm.model

    @property
    def losses(self) -> dict[str, Any]:
        """The loss module of each part."""
        return self.algorithm.losses

    @property
    def buffer(self) -> Any:
        """The first of the buffers, and mostly the only one."""
        return next(iter(self.buffers.values()))

    def train_step(self) -> None:
        """One optimisation step; nothing here waits for the device."""
        batch = self._sample(self.buffers)
        with self.products():
            metrics = self._optimize(batch)
        self.scheduler.step()
        self.step += 1
        total = metrics.pop("total")
        self.means.add(metrics)
        norms = [value for name, value in metrics.items() if name.startswith(_NORM)]
        rows = self.algorithm.rows(batch).clone()  # [B], of its own memory
        self.watch.note(total, norms, rows)

    def optimize(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Losses, gradients, their clipping, the optimiser and target networks, on a batch.

        All of it on tensors that stay where they are, so that it can be captured in a CUDA graph.

        Returns:
            ``total`` and each loss and its parts, and each part's ``gradient_norm/…``; detached.
        """
        metrics = self.joint_loss(*self._share(self.algorithm.prepare(batch)))
        metrics["total"].backward()
        norms = self._clip_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.algorithm.update_targets(self.step)
        return {**metrics, "total": metrics["total"].detach(), **norms}

    @torch.no_grad()
    def validate(self, batches: int = 4) -> dict[str, float]:
        """Losses on the held-out episodes, always on the same batches and noise.

        Returns:
            ``loss_<part>`` of each part, and what else the algorithm measures, such as
            ``loss_refiner_ema`` with the averaged weights.
        """
        if not self.validation:
            return {}
        for buffer in self.validation.values():
            if buffer.sampler._rng is not None:
                buffer.sampler._rng.manual_seed(0)
        losses, reads = self.algorithm.validation_losses(), self.algorithm.reads
        totals: dict[str, float] = {}
        self.algorithm.take_shard(0, 1)
        for number in range(batches):
            with own_randomness(number):
                batch = self.algorithm.prepare(self._sample(self.validation))
            for part, loss, suffix in losses:
                loss.eval()  # as it acts: no dropout
                with own_randomness(number):  # the same noise for every network of a part
                    entries = loss(batch[reads[part]] if part in reads else batch)
                loss.train()
                for key, value in entries.items():
                    if key.startswith("loss_"):
                        name = key + suffix
                        totals[name] = totals.get(name, 0.0) + float(value) / batches
        self.algorithm.take_shard(self.world.rank, self.world.size)
        return totals

    def read_metrics(self) -> dict[str, float]:
        """Means since they were last read, over the steps and over all processes."""
        read = self.means.read()
        values = torch.tensor(list(read.values()), dtype=torch.float64, device=self.device)
        means = dict(zip(read, self.world.mean(values).tolist(), strict=True))
        if means and self.watch.usual_loss is None:
            self.watch.usual_loss = sum(v for k, v in means.items() if k.startswith("loss_"))
        return means

    def learning_rate(self) -> float:
        """The learning rate of the last step; of the first before any."""
        factor = self.scheduler.lr_lambdas[0]
        return float(self.scheduler.base_lrs[0] * factor(max(self.step - 1, 0)))

    def planner_state(self) -> dict[str, Tensor]:
        """State dict of the model as it acts, with averaged weights where there are."""
        return dict(self.algorithm.acting_state())

    def planner_model(self) -> Any:
        """A copy of the model as it acts, for evaluation."""
        return self.algorithm.acting_model()

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs to continue bit for bit."""
        return {
            "step": self.step,
            "losses": {name: loss.state_dict() for name, loss in self.losses.items()},
            "units": dict(self.algorithm.units),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "samplers": {name: draws_state(buffer) for name, buffer in self.buffers.items()},
            "means": self.means.state_dict(),
            "watch": self.watch.state_dict(),
            "rng": RandomState(self.device).state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        for name, loss in self.losses.items():
            loss.load_state_dict(state["losses"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        restart_schedule(self.optimizer, self.scheduler)
        fit_for_capture(self.optimizer, self.config.training.cudagraph)
        self._optimize = self._optimization()  # a graph would go on with the states replaced
        for name, buffer in self.buffers.items():
            restore_draws(buffer, state["samplers"][name])
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

    def _sample(self, buffers: Mapping[str, Any]) -> TensorDictBase:
        """A sample of the only buffer, or one of each under its name."""
        batches = {name: buffer.sample().to(self.device) for name, buffer in buffers.items()}
        if len(batches) == 1:
            return next(iter(batches.values()))
        return TensorDict(dict(batches), batch_size=[], device=self.device)

    def _joint_loss(self) -> nn.Module:
        settings = self.config.training
        if settings.compile:
            for network in self.algorithm.networks_to_compile():
                network.compile()
        joint = JointLoss(self.losses, settings.autocast, self.algorithm.reads)
        if self.world.size == 1:
            return joint
        self.algorithm.take_shard(self.world.rank, self.world.size)
        return DistributedDataParallel(joint, broadcast_buffers=False)

    def _share(self, batch: TensorDictBase) -> tuple[TensorDictBase, dict[str, Tensor] | None]:
        """This rank's shard of a batch, and the weights of its losses in the mean over ranks."""
        if self.world.size == 1:
            return batch, None
        mine = self.world.share(batch)
        of_mine = self.algorithm.masks(mine)
        masks = self.algorithm.masks(batch)
        return mine, {n: self.world.weight(mask, of_mine[n]) for n, mask in masks.items()}

    def _clip_gradients(self) -> dict[str, Tensor]:
        """Norm of each part's gradient before clipping; clips each part or the whole."""
        norms = {}
        for group in self.optimizer.param_groups:
            gradients = [p.grad for p in group["params"] if p.grad is not None]
            # A part that this step does not train has none: PyTorch's norm of it is on the CPU.
            norms[group["name"]] = (
                nn.utils.get_total_norm(gradients)
                if gradients
                else torch.zeros((), device=self.device)
            )
        settings = self.config.training
        if settings.gradient_clip is not None:
            whole = torch.linalg.vector_norm(torch.stack(list(norms.values())))
            for group in self.optimizer.param_groups:
                norm = norms[group["name"]] if settings.clip_each_part else whole
                nn.utils.clip_grads_with_norm_(group["params"], settings.gradient_clip, norm)
        return {_NORM + name: norm for name, norm in norms.items()}


def _bounds(normalized: TensorDictBase, normalizer: Normalizer) -> tuple[Tensor, Tensor]:
    """Lowest and highest actions [A] of a normalised dataset, in the environment's units."""
    action = normalizer.denormalize_action(normalized["action"])
    return action.amin(0), action.amax(0)
