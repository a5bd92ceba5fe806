"""Trajectory Diffuser for TorchRL: offline episodes in, a planning agent out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    PlanGenerator,
    PlanInverseDynamics,
    PlanValue,
    ReturnsLimit,
    TrajectoryGenerator,
    TrajectoryPlanner,
)
from torchrl_td.objectives import (
    DiffusionRefinerLoss,
    InverseDynamicsLoss,
    PlanCriticLoss,
    PlanGeneratorLoss,
    PlanInverseDynamicsLoss,
    PlanValueLoss,
    ReturnsLimitLoss,
    TrajectoryGeneratorLoss,
)

if TYPE_CHECKING:
    from torchrl_td.experiment.train import train

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
    "PlanGenerator",
    "PlanGeneratorLoss",
    "PlanInverseDynamics",
    "PlanInverseDynamicsLoss",
    "PlanValue",
    "PlanValueLoss",
    "ReturnsLimit",
    "ReturnsLimitLoss",
    "TDPlannerActor",
    "TrajectoryGenerator",
    "TrajectoryGeneratorLoss",
    "TrajectoryPlanner",
    "WindowSampler",
    "load_episodes",
    "make_checkpoint_env",
    "train",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "train":  # it brings hydra and pictures, which whoever plays needs not
        return import_module("torchrl_td.experiment.train").train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
