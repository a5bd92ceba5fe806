"""The TorchRL policy that a trained model plays with, whatever algorithm trained it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torchrl_td.actors.td_planner_actor import TDPlannerActor
from torchrl_td.config import FROM_NOISE, PLANNERS, Config
from torchrl_td.modules.trajectory_diffuser import TrajectoryDiffuser
from torchrl_td.modules.value_guidance import GuidedDiffuser


def make_actor(
    model: Any, config: Config, action_spec: Any, refine_steps: int | None = None
) -> Any:
    """A policy for environments made by :func:`~torchrl_td.envs.make.make_env`.

    Args:
        model: of the algorithm that the settings name.
        config: the run's settings.
        action_spec: the environment's.
        refine_steps: of a planner, in place of the settings'.
    """
    if not isinstance(model, TrajectoryDiffuser):
        actor = model.actor(config)
        if getattr(model, "choices", False):
            actor.action_spec = action_spec
        return actor
    config = copy.deepcopy(config)
    if refine_steps is not None:
        config.planner.refine_steps = refine_steps
    if config.planner.refine_steps == 0:
        config.planner.evaluations, config.planner.candidates = None, 1
        config.planner.plan_scores = (config.planner.plan_scores or [])[:1] or None
    actor = TDPlannerActor.from_model(model, config, action_spec).eval()
    # A guided plan takes gradients, which no recording of operations has.
    guided = isinstance(model, GuidedDiffuser)
    return actor.compile("none" if guided else config.evaluation.compile)


def variants(config: Config) -> Sequence[int | None]:
    """The refine steps that a run is evaluated with: a planner's drafts alone, and refined."""
    if config.algorithm.name not in PLANNERS:
        return [None]
    if config.algorithm.name in FROM_NOISE:
        return [config.planner.refine_steps]
    return sorted({0, config.planner.refine_steps})
