"""Trajectory Diffuser for TorchRL: offline episodes in, a planning agent out."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
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

# Where modules that examples and documents have named stand now.
_MOVED = {
    "cli": "experiment.cli",
    "data.checks": "data.validation",
    "data.describe": "data.statistics",
    "data.maze2d": "data.mazes.maze2d",
    "data.minari": "data.sources.minari",
    "data.pointmaze": "data.mazes.pointmaze",
    "data.recording": "data.mazes.record",
    "data.suspicions": "data.statistics",
    "evaluation": "experiment.evaluate",
    "planner": "actors.td_planner_actor",
    "run": "experiment.run",
}


class _Moved(MetaPathFinder):
    """Asked last, of a module that nobody found."""

    def find_spec(self, fullname: str, *_: Any) -> None:
        new = _MOVED.get(fullname.removeprefix("torchrl_td."))
        if new is not None and fullname.startswith("torchrl_td."):
            words = f"{fullname} is now torchrl_td.{new}; import it from there"
            raise ModuleNotFoundError(words, name=fullname)


def __getattr__(name: str) -> Any:
    if name == "train":  # it brings hydra and pictures, which whoever plays needs not
        return import_module("torchrl_td.experiment.train").train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


sys.meta_path.append(_Moved())
