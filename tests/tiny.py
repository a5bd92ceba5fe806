"""A planner of a few thousand untrained weights, for tests that need one that acts."""

from __future__ import annotations

from typing import Any

import torch
from torchrl.modules import MLP

from torchrl_td import TDPlannerActor
from torchrl_td.data import Normalizer
from torchrl_td.modules import (
    DiffusionRefiner,
    InverseDynamics,
    NoiseSchedule,
    PlanCritic,
    TrajectoryGenerator,
    TrajectoryPlanner,
)
from torchrl_td.networks import TemporalUNet, TrajectoryTransformer

HORIZON = 8


def tiny_actor(
    observation_dim: int = 6,
    action_dim: int = 2,
    *,
    candidates: int = 1,
    predict: str = "change",
    horizon: int = HORIZON,
    layers: int = 2,
    refiner: dict[str, Any] | None = None,
    **settings: Any,
) -> TDPlannerActor:
    """Equal arguments give equal weights."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = TrajectoryTransformer(observation_dim, 2 * horizon - 2, width=32, layers=layers)
        unet = TemporalUNet(observation_dim, 16, (1, 2))
        planner = TrajectoryPlanner(
            TrajectoryGenerator(
                network,
                predict=predict,
                change_scale=torch.full((observation_dim,), 0.1),
                returns_change_scale=0.01,
            ),
            DiffusionRefiner(unet, NoiseSchedule(), **{"refine_steps": 2, **(refiner or {})}),
            InverseDynamics(
                MLP(
                    2 * observation_dim, action_dim, num_cells=(32,), activation_class=torch.nn.ReLU
                )
            ),
            horizon=horizon,
            critic=PlanCritic(
                MLP(
                    observation_dim + action_dim, 1, num_cells=(32,), activation_class=torch.nn.ReLU
                )
            ),
            candidates=candidates,
        )
    normalizer = Normalizer(
        torch.linspace(-0.2, 0.2, observation_dim), torch.full((observation_dim,), 0.8), 100.0
    )
    return TDPlannerActor(planner, normalizer, **settings)
