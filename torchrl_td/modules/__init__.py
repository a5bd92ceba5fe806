"""TensorDictModules around the networks, and the noise schedule."""

from torchrl_td.modules.generator import TrajectoryGenerator
from torchrl_td.modules.inverse_dynamics import InverseDynamics
from torchrl_td.modules.noise_schedule import NoiseSchedule
from torchrl_td.modules.plan_critic import PlanCritic
from torchrl_td.modules.plan_generator import PlanGenerator
from torchrl_td.modules.plan_inverse_dynamics import PlanInverseDynamics
from torchrl_td.modules.plan_value import PlanValue
from torchrl_td.modules.refiner import DiffusionRefiner, PlanCoordinates
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
    "TrajectoryGenerator",
    "TrajectoryPlanner",
]
