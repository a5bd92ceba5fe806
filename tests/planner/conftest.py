"""Tiny untrained planners and real environments for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase, TransformedEnv

from tests.tiny import HORIZON, tiny_actor
from torchrl_td import TDPlannerActor
from torchrl_td.config import TaskConfig
from torchrl_td.envs.make import make_base_env, planning_transforms

TARGET = 90.0


@pytest.fixture
def make_actor() -> Callable[..., TDPlannerActor]:
    """Builds a planner of a few thousand weights; equal arguments give equal weights."""
    return tiny_actor


@pytest.fixture
def make_step() -> Callable[..., TensorDictBase]:
    """Builds what a planner reads, with a history of several steps."""

    def build(
        actor: TDPlannerActor, batch: tuple[int, ...] = (3,), *, fresh: bool = False
    ) -> TensorDictBase:
        width = actor.normalizer.loc.shape[0]
        generator = torch.Generator().manual_seed(3)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*batch, *shape, generator=generator)

        state = actor.planner_spec.zero(batch)
        if not fresh:
            for name in ("observation", "returns_to_go", "plan", "plan_returns_to_go"):
                state[name] = draw(*state[name].shape[len(batch) :])
            state["steps"] = torch.full((*batch, 1), HORIZON + 2)
        return TensorDict(
            observation=draw(width),
            target_return=torch.full((*batch, 1), TARGET),
            is_init=torch.full((*batch, 1), fresh),
            planner=state,
            batch_size=batch,
        )

    return build


@pytest.fixture
def pointmaze() -> TaskConfig:
    """A real PointMaze whose episodes are short."""
    return TaskConfig(
        name="umaze",
        env="PointMaze_UMaze-v3",
        env_kwargs={"continuing_task": True, "reset_target": False},
        max_episode_steps=12,
        horizon=HORIZON,
        target_return=TARGET,
    )


@pytest.fixture
def single_env() -> Callable[..., EnvBase]:
    """Builds one environment of batch size [] with all that a planner needs."""

    def build(task: TaskConfig, primer: Any | None = None, seed: int = 0) -> EnvBase:
        env = TransformedEnv(make_base_env(task), planning_transforms(TARGET))
        if primer is not None:
            env.append_transform(primer)
        env.set_seed(seed)
        return env

    return build
