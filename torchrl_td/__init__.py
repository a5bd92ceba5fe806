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
    from torchrl_td.experiment.acting import load_actor
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
    "load_actor",
    "load_episodes",
    "make_checkpoint_env",
    "train",
]
__version__ = "0.1.0"


_LATE = {"load_actor": "acting", "train": "train"}  # what brings more than whoever plays needs


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(f"torchrl_td.experiment.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
