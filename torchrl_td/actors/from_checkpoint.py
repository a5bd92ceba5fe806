"""Makes an actor of what a training run has written or holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

import torch
from tensordict.nn import TensorDictModuleBase

from torchrl_td.advice import command
from torchrl_td.checkpoint import action_spec, load_model
from torchrl_td.checkpoint.build import plan_settings
from torchrl_td.config import Config, check_config, check_read, override_config
from torchrl_td.errors import InputError
from torchrl_td.modules.trajectory_diffuser import TrajectoryDiffuser
from torchrl_td.modules.trajectory_planner import WarmStart

_KEYS = ("in_keys", "out_keys", "planner_key", "action_spec")


class TrainedActor(TensorDictModuleBase):
    """An actor that can be made of a checkpoint, or of trained parts."""

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        device: torch.device | str = "cpu",
        **overrides: Any,
    ) -> Self:
        """The planner of a training run, with no dataset at hand.

        Args:
            path: a run's ``output_dir``, its checkpoint folder, or one checkpoint in it.
            device: where to plan.
            **overrides: settings of :class:`~torchrl_td.config.PlannerConfig`, such as
                ``refine_steps=2, sampler="ddim", evaluations=1``, and ``in_keys``, ``out_keys``,
                ``planner_key`` and, in place of the trained one, ``action_spec`` as the actor
                itself takes them.

        Raises:
            InputError: if the checkpoint is missing, damaged or foreign, or a setting is wrong or
                not read by its plans.
        """
        keys = {name: overrides.pop(name) for name in _KEYS if name in overrides}
        model, about = load_model(path, device)
        if not isinstance(model, TrajectoryDiffuser):
            name = about["config"]["algorithm"]["name"]
            raise InputError(
                f"the checkpoint {path} holds algorithm {name}, which makes no plans; take "
                f"torchrl_td.load_actor, or play it with {command('td-evaluate')}"
            )
        given = {f"planner.{key}": value for key, value in overrides.items()}
        trained = check_config(about["config"])
        config = override_config(trained, given)
        asked, before = vars(config.planner), vars(trained.planner)
        check_read(config, [f"planner.{key}" for key in overrides if asked[key] != before[key]])
        keys.setdefault("action_spec", action_spec(about))
        return cls.from_model(model, config, **keys).eval()

    @classmethod
    def from_model(
        cls,
        model: TrajectoryDiffuser,
        config: Config,
        action_spec: Any | None = None,
        **keys: Any,
    ) -> Self:
        """The planner of trained parts.

        Args:
            model: generator, refiner, inverse dynamics and normaliser.
            config: of its settings, ``planner``.
            action_spec: the environment's, if actions are to be clipped to its bounds.
            **keys: ``in_keys``, ``out_keys`` and ``planner_key`` of the actor.
        """
        settings, asked_for_returns = config.planner, model.plan_value is None
        if settings.refine_steps == 0:  # the generator alone, with nothing to choose from
            first = settings.plan_scores and settings.plan_scores[:1]
            settings = replace(settings, evaluations=None, candidates=1, plan_scores=first)
        make: Any = cls  # the actor itself, whose arguments these are
        return make(
            model.planner(**plan_settings(settings)),
            model.normalizer,
            action_spec=action_spec,
            replan_every=settings.replan_every,
            warm_start=cast(WarmStart, settings.warm_start),
            refresh_every=settings.refresh_every,
            refresh_distance=settings.refresh_distance,
            returns_floor_share=settings.returns_floor_share if asked_for_returns else None,
            returns_limit=model.returns_limit,
            **keys,
        )
