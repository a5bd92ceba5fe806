"""What several tests of the planner do with one."""

from __future__ import annotations

from collections.abc import Callable

from tensordict import TensorDictBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from torchrl_td import TDPlannerActor

Build = Callable[..., TDPlannerActor]


def act(actor: TDPlannerActor, step: TensorDictBase) -> TensorDictBase:
    """Plans without sampling noise, on a copy of what is read."""
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        return actor(step.clone())
