"""Trajectory Diffuser for TorchRL: offline episodes in, a planning agent out."""

from __future__ import annotations

from torchrl_td.actors.td_planner_actor import TDPlannerActor
from torchrl_td.checkpoint import make_checkpoint_env
from torchrl_td.data import Normalizer, WindowSampler, load_episodes
from torchrl_td.errors import InputError
from torchrl_td.modules import (
    DiffusionRefiner,
    InverseDynamics,
    NoiseSchedule,
    PlanCoordinates,
    PlanCritic,
    TrajectoryGenerator,
    TrajectoryPlanner,
)
from torchrl_td.objectives import (
    DiffusionRefinerLoss,
    InverseDynamicsLoss,
    PlanCriticLoss,
    TrajectoryGeneratorLoss,
)

__all__ = [
    "DiffusionRefiner",
    "DiffusionRefinerLoss",
    "InputError",
    "InverseDynamics",
    "InverseDynamicsLoss",
    "NoiseSchedule",
    "Normalizer",
    "PlanCoordinates",
    "PlanCritic",
    "PlanCriticLoss",
    "TDPlannerActor",
    "TrajectoryGenerator",
    "TrajectoryGeneratorLoss",
    "TrajectoryPlanner",
    "WindowSampler",
    "load_episodes",
    "make_checkpoint_env",
]
__version__ = "0.1.0"
