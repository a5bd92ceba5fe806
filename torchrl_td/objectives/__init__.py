"""Loss modules, one for each trained part."""

from torchrl_td.objectives.critic import PlanCriticLoss
from torchrl_td.objectives.generator import TrajectoryGeneratorLoss
from torchrl_td.objectives.inverse_dynamics import InverseDynamicsLoss
from torchrl_td.objectives.plan_parts import PlanGeneratorLoss, PlanInverseDynamicsLoss
from torchrl_td.objectives.plan_value import PlanValueLoss
from torchrl_td.objectives.refiner import DiffusionRefinerLoss
from torchrl_td.objectives.returns_limit import ReturnsLimitLoss

__all__ = [
    "DiffusionRefinerLoss",
    "InverseDynamicsLoss",
    "PlanCriticLoss",
    "PlanGeneratorLoss",
    "PlanInverseDynamicsLoss",
    "PlanValueLoss",
    "ReturnsLimitLoss",
    "TrajectoryGeneratorLoss",
]
