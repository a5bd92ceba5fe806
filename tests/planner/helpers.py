"""What several tests of the planner do with one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDictBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from torchrl_td import TDPlannerActor

Build = Callable[..., TDPlannerActor]


def act(actor: TDPlannerActor, step: TensorDictBase) -> TensorDictBase:
    """Plans without sampling noise, on a copy of what is read."""
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        return actor(step.clone())


def assert_same_plans(one: TensorDictBase, other: TensorDictBase, tolerance: float = 1e-5) -> None:
    """Actions, drafts and plans, and what the next step is told of them."""
    for key in ("action", ("plan", "draft"), ("plan", "refined"), ("next", "planner", "plan")):
        torch.testing.assert_close(one[key], other[key], rtol=tolerance, atol=tolerance)
