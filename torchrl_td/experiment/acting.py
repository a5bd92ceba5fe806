"""The TorchRL policy of a trained model, whatever algorithm trained it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from torchrl_td.actors.td_planner_actor import TDPlannerActor
from torchrl_td.checkpoint import action_spec, load_model
from torchrl_td.config import FROM_NOISE, PLANNERS, Config, check_config
from torchrl_td.modules.trajectory_diffuser import TrajectoryDiffuser
from torchrl_td.modules.value_guidance import GuidedDiffuser


def load_actor(path: str | Path, device: torch.device | str = "cpu") -> Any:
    """The policy of a training run, whatever algorithm trained it, with no dataset at hand.

    A planner's is a :class:`~torchrl_td.TDPlannerActor` of the run's own settings; others are
    given to its :meth:`~torchrl_td.TDPlannerActor.from_checkpoint`. It acts in environments of
    :func:`~torchrl_td.make_checkpoint_env`; a policy that keeps a state, as planners and Decision
    Transformer do, needs its ``make_tensordict_primer()`` appended there, which collectors do
    themselves.

    Args:
        path: a run's ``output_dir``, its checkpoint folder, or one checkpoint in it.
        device: where to act.

    Raises:
        InputError: if the checkpoint is missing, damaged or foreign.
    """
    model, about = load_model(path, device)
    config = check_config(about["config"])
    config.evaluation.compile = "none"  # left to the caller
    return make_actor(model, config, action_spec(about).to(device))


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
