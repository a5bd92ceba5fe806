"""The checks that settings hold what they may, and go together."""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from operator import attrgetter
from typing import Any

from torchrl_td.config.limits import (
    ALGORITHMS,
    CHOICES,
    FREE_FORM,
    FROM_NOISE,
    LARGEST_SIZE,
    MOST_LAYERS,
    OFF,
    POSITIVE,
    RANGES,
    WIDTHS,
)
from torchrl_td.config.settings import Config, LoggerConfig
from torchrl_td.errors import InputError
from torchrl_td.modules.plan_parts import HIGHEST_SCORE


def check_values(config: Config) -> None:
    """Checks choices, ranges, and settings that need one another.

    Args:
        config: the whole settings, of the right types.

    Raises:
        InputError: at the first value that is not allowed.
    """
    for key in ("output_dir", "resume", "init_from"):
        if getattr(config, key) == "":  # which would mean the present folder
            raise InputError(f"{key} is empty; give a folder, or leave {key}= out")
    _check_finite(asdict(config), "")
    for key, choices in CHOICES.items():
        value = attrgetter(key)(config)
        if value not in choices:
            raise InputError(f"{key}={value!r}; allowed are {', '.join(choices)}")
    for key, (low, high) in RANGES.items():
        value = attrgetter(key)(config)
        if value is None:
            continue
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            raise InputError(f"{key}={value}; allowed is {bounds}")
    for key in POSITIVE:
        value = attrgetter(key)(config)
        if value is not None and not value > 0:
            raise InputError(f"{key}={value}; allowed is any value above 0{OFF.get(key, '')}")
    for key in WIDTHS:
        value = attrgetter(key)(config)
        if len(value or ()) > MOST_LAYERS:
            raise InputError(f"{key} has {len(value)} entries; allowed are up to {MOST_LAYERS}")
        if any(not 1 <= width <= LARGEST_SIZE for width in value or ()):
            raise InputError(f"{key}={value}; allowed are whole numbers from 1 to {LARGEST_SIZE}")
    _check_names(config.logger)
    _check_together(config)


def _check_names(logger: LoggerConfig) -> None:
    """Names that W&B, or the file system, would refuse when a run has begun."""
    for key in ("project", "entity", "group", "name"):
        value = getattr(logger, key)
        if value is not None and not re.fullmatch(r"[^/\\#?%:\s]{1,128}", value):
            raise InputError(
                f"logger.{key}={value!r}; allowed are 1 to 128 characters, none of them a space or "
                f"/ \\ # ? % :"
            )
    if not all(re.fullmatch(r".{1,64}", tag) for tag in logger.tags):
        raise InputError(f"logger.tags={logger.tags}; allowed are 1 to 64 characters each")


def _check_algorithm(config: Config) -> None:
    name, beside = config.algorithm.name, config.evaluation.baseline
    baselines = [known for known in ALGORITHMS if known != "trajectory_diffuser"]
    if name in FROM_NOISE and config.planner.init != "noise":
        raise InputError(f"algorithm={name} plans from noise: it needs planner.init=noise")
    if beside is not None and beside not in baselines:
        raise InputError(
            f"evaluation.baseline={beside!r}; allowed are {', '.join(baselines)}, or null for none"
        )
    for key, value in asdict(config.algorithm).items():
        given, reads = value is not None, key in ALGORITHMS[name]
        if key != "name" and given and not reads:
            raise InputError(f"algorithm={name} does not read algorithm.{key}; leave it out")
        if reads and not given:
            raise InputError(f"algorithm={name} needs algorithm.{key}; give a value")


def _check_played(config: Config) -> None:
    """That there is an environment where something is to be played, and no word of it elsewhere."""
    episodes, env = config.evaluation.episodes, config.task.env
    if env is None and episodes:
        raise InputError(
            f"evaluation.episodes={episodes} needs an environment, and task.env is null; give "
            f"task.env=<Gymnasium id>, or evaluation.episodes=0 to train and play nothing"
        )
    for key, wanted in (
        ("training.evaluate_every", config.training.evaluate_every),
        ("logger.video", config.logger.video),
    ):
        if wanted and not episodes:
            raise InputError(f"{key} needs evaluation.episodes above 0: with 0 nothing is played")


def _check_together(config: Config) -> None:
    _check_algorithm(config)
    training, candidates = config.training, config.planner.candidates
    if training.ema_decay >= 1:
        raise InputError(
            f"training.ema_decay={training.ema_decay}; allowed is from 0 to below 1: at 1 the "
            f"averaged weights, which plan, stay untrained"
        )
    _check_played(config)
    if training.patience is not None and not training.evaluate_every:
        raise InputError(
            f"training.patience={training.patience} needs training.evaluate_every above 0: it "
            f"counts evaluations"
        )
    if candidates > 1 and not config.critic.enabled:
        raise InputError(
            f"planner.candidates={candidates} needs critic.enabled=true, to choose among them"
        )
    _check_value(config)
    low, high = config.task.score_min, config.task.score_max
    if (low is None) != (high is None) or not (low is None or high is None or low < high):
        raise InputError(
            f"task.score_min={'null' if low is None else low}, "
            f"task.score_max={'null' if high is None else high}; allowed is the first below the "
            f"second, or null for both, where a score is the return itself"
        )
    _check_sampler(config)


def _check_value(config: Config) -> None:
    """Strided drafts of one evaluation are made anew at every step; a value scores no others."""
    planner, states = config.planner, config.inverse_dynamics.plan_states
    if config.value.enabled and planner.plan_scores is None:
        raise InputError("value.enabled=true needs planner.plan_scores, what plans are asked for")
    if config.value.enabled and config.training.return_tilt:
        raise InputError(
            f"training.return_tilt={config.training.return_tilt}: with value.enabled=true plans "
            f"are asked for scores, and all data is drawn evenly; leave it out, or give "
            f"task.scored=false"
        )
    if config.generator.kind != "plan":
        if config.value.enabled:
            raise InputError(
                "value.enabled=true needs generator.kind=plan: it scores strided plans"
            )
        return
    if planner.warm_start != "none" or planner.replan_every != 1 or planner.candidates != 1:
        raise InputError(
            "generator.kind=plan drafts in one evaluation, for each step anew: it needs "
            "planner.warm_start=none, planner.replan_every=1 and planner.candidates=1"
        )
    scores = planner.plan_scores
    out = any(not -HIGHEST_SCORE <= score <= HIGHEST_SCORE for score in scores or [])
    if scores == [] or out:
        raise InputError(
            f"planner.plan_scores={scores}; allowed are one or more numbers from "
            f"-{HIGHEST_SCORE:g} to {HIGHEST_SCORE:g}, or null"
        )
    horizon = config.task.strided_horizon
    if states is not None and states >= horizon:
        raise InputError(
            f"inverse_dynamics.plan_states={states}; allowed is from 1 to {horizon - 1}, those "
            f"planned with task.strided_horizon={horizon}, or null for all"
        )


def _check_sampler(config: Config) -> None:
    from_the_end = config.planner.refine_steps == config.refiner.denoising_steps
    # Whether another schedule ends at noise the refiner sees.
    if config.planner.init == "noise" and (config.refiner.schedule == "linear" or not from_the_end):
        raise InputError(
            "planner.init=noise starts from pure noise: it needs refiner.schedule=cosine in "
            "training and planner.refine_steps equal to refiner.denoising_steps"
        )
    trained, used = config.refiner.max_step, config.planner.refine_steps
    if trained is not None and used > trained:
        raise InputError(
            f"planner.refine_steps={used} is above refiner.max_step={trained}, the last denoising "
            f"step that is trained; lower the one or raise the other"
        )


def _check_finite(config: dict[str, Any], prefix: str) -> None:
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and f"{name}." not in FREE_FORM:
            _check_finite(value, f"{name}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name}={value}; allowed are finite numbers")
