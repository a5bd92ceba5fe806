"""Which class trains what ``algorithm.name`` means."""

from __future__ import annotations

from torchrl_td.baselines import BASELINES, Algorithm
from torchrl_td.config import Config
from torchrl_td.training.diffuser import DiffuserTraining
from torchrl_td.training.trajectory_diffuser import TrajectoryDiffuserTraining
from torchrl_td.training.value_guided import StridedTraining, ValueGuidedTraining


def find_algorithm(config: Config) -> type[Algorithm]:
    """The class of ``algorithm.name``, the planner's by its kind."""
    if config.algorithm.name == "diffuser":
        return DiffuserTraining
    planner: type[Algorithm] = TrajectoryDiffuserTraining
    if config.generator.kind == "plan":
        planner = ValueGuidedTraining if config.value.enabled else StridedTraining
    return BASELINES.get(config.algorithm.name, planner)
