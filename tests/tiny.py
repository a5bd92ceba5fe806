"""A planner of a few thousand untrained weights, for tests that need one that acts."""

from __future__ import annotations

from typing import Any

import torch

from torchrl_td import TDPlannerActor
from torchrl_td.data import Normalizer
from torchrl_td.modules import (
    DiffusionRefiner,
    InverseDynamics,
    NoiseSchedule,
    TrajectoryGenerator,
    TrajectoryPlanner,
)
from torchrl_td.networks import MLP, TemporalUNet, TrajectoryTransformer


def tiny_actor(
    observation_dim: int, action_dim: int, *, horizon: int = 8, **settings: Any
) -> TDPlannerActor:
    """Equal arguments give equal weights."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = TrajectoryTransformer(observation_dim, 2 * horizon - 2, width=32, layers=1)
        planner = TrajectoryPlanner(
            TrajectoryGenerator(network),
            DiffusionRefiner(
                TemporalUNet(observation_dim, 16, (1, 2)), NoiseSchedule(), refine_steps=2
            ),
            InverseDynamics(MLP(2 * observation_dim, (32,), action_dim)),
            horizon=horizon,
        )
    normalizer = Normalizer(torch.zeros(observation_dim), torch.ones(observation_dim), 100.0)
    return TDPlannerActor(planner, normalizer, **settings)
