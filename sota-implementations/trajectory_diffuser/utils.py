"""What the Trajectory Diffuser script is made of."""

from __future__ import annotations

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torch import nn
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import (
    Compose,
    DoubleToFloat,
    EnvBase,
    GymEnv,
    InitTracker,
    RewardSum,
    StepCounter,
    TargetReturn,
    TransformedEnv,
)
from torchrl.modules import MLP
from torchrl.objectives import LossModule, SoftUpdate

from torchrl_td import (
    DiffusionRefiner,
    DiffusionRefinerLoss,
    InverseDynamics,
    InverseDynamicsLoss,
    NoiseSchedule,
    Normalizer,
    TDPlannerActor,
    TrajectoryGenerator,
    TrajectoryGeneratorLoss,
    TrajectoryPlanner,
    WindowSampler,
    load_episodes,
)
from torchrl_td.networks import TemporalUNet, TrajectoryTransformer


def make_environment(cfg: DictConfig, actor: TDPlannerActor) -> EnvBase:
    """The environment, with what the planner reads."""
    env = TransformedEnv(
        GymEnv(cfg.env.name),
        Compose(
            DoubleToFloat(),
            InitTracker(),
            StepCounter(cfg.env.max_episode_steps),
            RewardSum(),
            TargetReturn(cfg.env.target_return, mode="reduce"),
            actor.make_tensordict_primer(),
        ),
    )
    env.set_seed(cfg.env.seed)
    return env


def make_offline_replay_buffer(
    cfg: DictConfig, episodes: TensorDictBase | None = None
) -> tuple[TensorDictReplayBuffer, Normalizer]:
    """A buffer of windows of normalised episodes, and the normaliser."""
    data = load_episodes(cfg.replay_buffer.dataset if episodes is None else episodes)
    normalizer = Normalizer.fit(data, cfg.replay_buffer.returns_scale)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(len(data)),
        sampler=WindowSampler(cfg.model.horizon),
        batch_size=cfg.replay_buffer.batch_size,
    )
    buffer.extend(normalizer.apply_to(data))
    return buffer, normalizer


def make_planner(
    cfg: DictConfig, observation_dim: int, action_dim: int, device: torch.device
) -> TrajectoryPlanner:
    """Generator, refiner and inverse dynamics, with the paper's settings."""
    model, horizon = cfg.model, cfg.model.horizon
    generator = TrajectoryGenerator(
        TrajectoryTransformer(observation_dim, 2 * horizon - 2, model.width, model.layers)
    )
    refiner = DiffusionRefiner(
        TemporalUNet(observation_dim, model.channels, tuple(model.multipliers)),
        NoiseSchedule(model.denoising_steps),
        refine_steps=model.refine_steps,
        guidance_scale=model.guidance_scale,
    )
    network = MLP(
        2 * observation_dim,
        action_dim,
        num_cells=list(model.hidden_dims),
        activation_class=nn.ReLU,
    )
    parts = generator, refiner, InverseDynamics(network)
    return TrajectoryPlanner(*parts, horizon=horizon).to(device)


def make_losses(
    cfg: DictConfig, planner: TrajectoryPlanner
) -> tuple[dict[str, LossModule], SoftUpdate]:
    """The three losses, and the average of the refiner's weights."""
    losses = {
        "generator": TrajectoryGeneratorLoss(planner.generator),
        "refiner": DiffusionRefinerLoss(planner.refiner, cfg.model.horizon, delay_refiner=True),
        "inverse_dynamics": InverseDynamicsLoss(planner.inverse_dynamics),
    }
    return losses, SoftUpdate(losses["refiner"], eps=cfg.optim.ema_decay)


def make_optimizer(cfg: DictConfig, losses: dict[str, LossModule]) -> torch.optim.Optimizer:
    """One optimiser over the three parts."""
    decay = {"refiner": cfg.optim.weight_decay}
    groups = [
        {"params": list(loss.parameters()), "weight_decay": decay.get(name, 0.0)}
        for name, loss in losses.items()
    ]
    return torch.optim.AdamW(groups, lr=cfg.optim.lr)
