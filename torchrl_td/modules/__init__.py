"""TensorDictModules around the networks, and the noise schedule."""

from torchrl_td.modules.generator import InverseDynamics, TrajectoryGenerator
from torchrl_td.modules.noise_schedule import NoiseSchedule
from torchrl_td.modules.plan_critic import PlanCritic
from torchrl_td.modules.plan_parts import PlanGenerator, PlanInverseDynamics, PlanValue
from torchrl_td.modules.refiner import DiffusionRefiner, PlanCoordinates
from torchrl_td.modules.returns_limit import ReturnsLimit
from torchrl_td.modules.trajectory_planner import TrajectoryPlanner

__all__ = [
    "DiffusionRefiner",
    "InverseDynamics",
    "NoiseSchedule",
    "PlanCoordinates",
    "PlanCritic",
    "PlanGenerator",
    "PlanInverseDynamics",
    "PlanValue",
    "ReturnsLimit",
    "TrajectoryGenerator",
    "TrajectoryPlanner",
]
