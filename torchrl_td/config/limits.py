"""What each setting may hold, and the check that it does."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf

from torchrl_td.config.settings import Config
from torchrl_td.errors import InputError
from torchrl_td.modules.generator import Predict
from torchrl_td.modules.noise_schedule import Schedule
from torchrl_td.modules.refiner import Init, Sampler
from torchrl_td.modules.trajectory_planner import WarmStart

_CRITICS = ("hidden_dims", "discount", "tau", "normalize_rewards")
# What each algorithm reads of `algorithm` beside its name.
ALGORITHMS: dict[str, tuple[str, ...]] = {
    "trajectory_diffuser": (),
    "bc": ("hidden_dims",),
    "bc_best": ("hidden_dims",),
    "rcbc": ("hidden_dims",),
    "dt": ("context", "width", "layers", "heads", "dropout", "weight_decay"),
    "iql": (*_CRITICS, "expectile", "temperature"),
    "td3_bc": (*_CRITICS, "alpha", "policy_delay"),
    "decision_diffuser": (),
    "diffuser": ("hidden_dims", "value_scale"),
}
FROM_NOISE = ("decision_diffuser", "diffuser")
"""Those whose plans start from noise, with no generator."""
PLANNERS = ("trajectory_diffuser", *FROM_NOISE)
"""Those that make plans."""
# Sections and settings that only plans have a use for.
OF_PLANS = (
    "generator",
    "refiner",
    "inverse_dynamics",
    "critic",
    "value",
    "planner",
    "task.stride",
    "task.strided_horizon",
    "task.refine_steps",
    "task.guidance_scale",
    "training.refiner_weight_decay",
    "training.ema_decay",
    "training.compile",
    "training.cudagraph",
    "evaluation.compile",
    "evaluation.baseline",
)
_OF_DRAFTS = (
    "generator",
    "critic",
    "value",
    "task.stride",
    "task.strided_horizon",
    "planner.plan_scores",
    "planner.add_noise",
    "planner.candidates",
    "planner.warm_start",
    "planner.refresh_every",
    "planner.refresh_distance",
    "evaluation.baseline",
)
CHOICES: dict[str, tuple[str, ...]] = {
    "algorithm.name": tuple(ALGORITHMS),
    "generator.kind": ("transformer", "gru", "lstm", "plan"),
    "generator.predict": get_args(Predict),
    "refiner.kind": ("unet", "mlp"),
    "refiner.schedule": get_args(Schedule),
    "refiner.coordinates": ("absolute", "displacement"),
    "inverse_dynamics.input": ("states", "change"),
    "planner.sampler": get_args(Sampler),
    "planner.init": get_args(Init),
    "planner.warm_start": get_args(WarmStart),
    "evaluation.compile": (
        "none",
        "auto",
        "openvino",
        "cudagraph",
        "default",
        "reduce-overhead",
        "max-autotune",
    ),
    "logger.kind": ("csv", "wandb", "tensorboard"),
    "logger.mode": ("offline", "online"),
}
HIGHEST_SCORE = 4  # the scores that a value gives are clipped there
_LARGEST_SEED = 2**63 - 1  # that PyTorch's generators take
_LARGEST_SIZE = 65_536  # of a layer, in numbers: far above what trains, below what overflows
_MOST_LAYERS = 64  # of a network whose widths are listed
_LARGEST_RETURN = 1e12  # in reward units: its square is a number that float32 holds
# Smallest and largest allowed value; None means no bound. A null setting is not checked.
RANGES: dict[str, tuple[float | None, float | None]] = {
    "seed": (0, _LARGEST_SEED),
    "task.horizon": (2, 4096),
    "task.stride": (1, 1024),
    "task.strided_horizon": (2, 4096),
    "task.max_episode_steps": (1, 1_000_000_000),
    "task.guidance_scale": (-100, 100),
    "task.target_return": (-_LARGEST_RETURN, _LARGEST_RETURN),
    "task.training_steps": (1, None),
    "dataset.validation_share": (0, 0.5),
    "algorithm.context": (2, 1024),
    "algorithm.width": (1, _LARGEST_SIZE),
    "algorithm.layers": (1, 256),
    "algorithm.heads": (1, _LARGEST_SIZE),
    "algorithm.dropout": (0, 1),
    "algorithm.weight_decay": (0, None),
    "algorithm.discount": (0, 1),
    "algorithm.tau": (0, 1),
    "algorithm.expectile": (0, 1),
    "algorithm.temperature": (0, None),
    "algorithm.alpha": (0, None),
    "algorithm.value_scale": (0, None),
    "algorithm.policy_delay": (1, None),
    "generator.width": (2, _LARGEST_SIZE),
    "generator.layers": (1, 256),
    "generator.heads": (1, _LARGEST_SIZE),
    "generator.feedforward": (1, _LARGEST_SIZE),
    "refiner.channels": (8, _LARGEST_SIZE),
    "refiner.kernel_size": (1, 255),
    "refiner.embedding_dim": (4, _LARGEST_SIZE),
    "refiner.embedding_hidden_dim": (1, _LARGEST_SIZE),
    "refiner.denoising_steps": (1, 100_000),
    "refiner.condition_dropout": (0, 1),
    "refiner.max_step": (1, None),
    "refiner.batch_size": (1, None),
    "inverse_dynamics.plan_states": (1, None),
    "value.discount": (0, 1),
    "value.expectile": (0.5, 0.9999),
    "value.target_decay": (0, 0.999999),
    "planner.refine_steps": (0, None),
    "planner.evaluations": (1, None),
    "planner.guidance_scale": (-100, 100),
    "planner.temperature": (0, 100),
    "planner.candidates": (1, 65_536),
    "planner.replan_every": (1, None),
    "planner.refresh_every": (1, None),
    "planner.returns_floor_share": (0, 1),
    "training.steps": (1, None),
    "training.batch_size": (1, None),
    "training.decay_steps": (1, None),
    "training.final_learning_rate_share": (0, 1),
    "training.refiner_weight_decay": (0, None),
    "training.ema_decay": (0, None),
    "training.warmup_steps": (0, None),
    "training.log_every": (1, None),
    "training.validate_every": (0, None),
    "training.evaluate_every": (0, None),
    "training.checkpoint_every": (1, None),
    "training.keep_checkpoints": (1, None),
    "training.stop_after": (1, None),
    "training.patience": (1, None),
    "training.explosion": (1, None),
    "training.threads": (1, 1024),
    "evaluation.episodes": (1, None),
    "evaluation.workers": (0, 1024),
    "evaluation.seed": (0, _LARGEST_SEED),
    "evaluation.target_return": (-_LARGEST_RETURN, _LARGEST_RETURN),
}
POSITIVE = (
    "task.returns_scale",
    "task.learning_rate",
    "training.learning_rate",
    "training.gradient_clip",
)
_OFF = {"training.gradient_clip": ", or null for no clipping"}
WIDTHS = (
    "algorithm.hidden_dims",
    "refiner.multipliers",
    "refiner.hidden_dims",
    "inverse_dynamics.hidden_dims",
    "critic.hidden_dims",
    "value.hidden_dims",
)
# Handed to the environment; other names of the same data.
FREE_FORM = ("task.env_kwargs.", "task.reset_options.", "dataset.sources.")


def check_values(config: Any) -> None:
    """Checks choices, ranges, and settings that need one another.

    Args:
        config: the whole settings, a ``DictConfig`` of the right keys and types.

    Raises:
        InputError: at the first value that is not allowed.
    """
    for key in ("output_dir", "resume"):
        if config[key] == "":  # which would mean the present folder
            raise InputError(f"{key} is empty; give a folder, or leave {key}= out")
    _check_finite(config, "")
    for key, choices in CHOICES.items():
        value = OmegaConf.select(config, key)
        if value not in choices:
            raise InputError(f"{key}={value!r}; allowed are {', '.join(choices)}")
    for key, (low, high) in RANGES.items():
        value = OmegaConf.select(config, key)
        if value is None:
            continue
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            raise InputError(f"{key}={value}; allowed is {bounds}")
    for key in POSITIVE:
        value = OmegaConf.select(config, key)
        if value is not None and not value > 0:
            raise InputError(f"{key}={value}; allowed is any value above 0{_OFF.get(key, '')}")
    for key in WIDTHS:
        value = OmegaConf.select(config, key)
        if len(value or ()) > _MOST_LAYERS:
            raise InputError(f"{key} has {len(value)} entries; allowed are up to {_MOST_LAYERS}")
        if any(not 1 <= width <= _LARGEST_SIZE for width in value or ()):
            raise InputError(f"{key}={value}; allowed are whole numbers from 1 to {_LARGEST_SIZE}")
    if not re.fullmatch(r"[^/\\#?%:\s]{1,128}", config.logger.project):
        raise InputError(
            f"logger.project={config.logger.project!r}; allowed are 1 to 128 characters, none of "
            f"them a space or / \\ # ? % :"
        )
    _check_together(config)


def check_read(config: Config, overrides: Iterable[str]) -> None:
    """Refuses words that set what the run's algorithm does not read.

    Args:
        config: the settings.
        overrides: ``key=value`` words that a user gave.

    Raises:
        InputError: at the first of them.

    Examples:
        >>> from torchrl_td.config import AlgorithmConfig, Config, check_read
        >>> check_read(Config(algorithm=AlgorithmConfig(name="bc")), ["generator.width=64"])
        Traceback (most recent call last):
        ...
        torchrl_td.errors.InputError: algorithm=bc does not read generator.width; leave it out, or
        choose an algorithm that does
    """
    unread = unread_settings(config)
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        if any(key == name or key.startswith(f"{name}.") for name in unread):
            raise InputError(
                f"algorithm={config.algorithm.name} does not read {key}; leave it out, or choose "
                f"an algorithm that does"
            )


def unread_settings(config: Config) -> tuple[str, ...]:
    """Sections and settings that the run's algorithm has no use for."""
    if config.algorithm.name == "diffuser":
        return (*_OF_DRAFTS, "planner.guidance_scale", "refiner.condition_dropout")
    if config.algorithm.name in FROM_NOISE:
        return _OF_DRAFTS
    return () if config.algorithm.name in PLANNERS else OF_PLANS


def _check_algorithm(config: Any) -> None:
    name, beside = config.algorithm.name, config.evaluation.baseline
    baselines = [known for known in ALGORITHMS if known != "trajectory_diffuser"]
    if name in FROM_NOISE and config.planner.init != "noise":
        raise InputError(f"algorithm={name} plans from noise: it needs planner.init=noise")
    if beside is not None and beside not in baselines:
        raise InputError(
            f"evaluation.baseline={beside!r}; allowed are {', '.join(baselines)}, or null for none"
        )
    for key in config.algorithm:
        given, reads = config.algorithm[key] is not None, key in ALGORITHMS[name]
        if key != "name" and given and not reads:
            raise InputError(f"algorithm={name} does not read algorithm.{key}; leave it out")
        if reads and not given:
            raise InputError(f"algorithm={name} needs algorithm.{key}; give a value")


def _check_together(config: Any) -> None:
    _check_algorithm(config)
    training, candidates = config.training, config.planner.candidates
    if training.ema_decay >= 1:
        raise InputError(
            f"training.ema_decay={training.ema_decay}; allowed is from 0 to below 1: at 1 the "
            f"averaged weights, which plan, stay untrained"
        )
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
    if (low is None) != (high is None) or (low is not None and not low < high):
        raise InputError(
            f"task.score_min={'null' if low is None else low}, "
            f"task.score_max={'null' if high is None else high}; allowed is the first below the "
            f"second, or null for both, where a score is the return itself"
        )
    _check_sampler(config)


def _check_value(config: Any) -> None:
    """Plans asked for by score are strided drafts of one evaluation, made anew at every step."""
    planner, states = config.planner, config.inverse_dynamics.plan_states
    together = {
        "generator.kind=plan": config.generator.kind == "plan",
        "value.enabled=true": config.value.enabled,
        "planner.plan_scores": planner.plan_scores is not None,
    }
    if len(set(together.values())) > 1:
        missing = " and ".join(name for name, there in together.items() if not there)
        there = next(name for name, there in together.items() if there)
        raise InputError(f"{there} needs {missing}: they are trained and used together")
    if not config.value.enabled:
        return
    if planner.warm_start != "none" or planner.replan_every != 1 or planner.candidates != 1:
        raise InputError(
            "generator.kind=plan drafts in one evaluation, for each step anew: it needs "
            "planner.warm_start=none, planner.replan_every=1 and planner.candidates=1"
        )
    scores = planner.plan_scores
    if not scores or any(not -HIGHEST_SCORE <= score <= HIGHEST_SCORE for score in scores):
        raise InputError(
            f"planner.plan_scores={scores}; allowed are one or more numbers from -{HIGHEST_SCORE} "
            f"to {HIGHEST_SCORE}, or null"
        )
    horizon = config.task.strided_horizon
    if horizon is None or config.task.stride is None:
        raise InputError(
            "generator.kind=plan needs task.strided_horizon and task.stride, which mazes have; "
            "give both, or take preset=small"
        )
    if states is not None and states >= horizon:
        raise InputError(
            f"inverse_dynamics.plan_states={states}; allowed is from 1 to {horizon - 1}, those "
            f"planned with task.strided_horizon={horizon}, or null for all"
        )


def _check_sampler(config: Any) -> None:
    from_the_end = config.planner.refine_steps == config.refiner.denoising_steps
    if config.planner.init == "noise" and (config.refiner.schedule != "cosine" or not from_the_end):
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


def _check_finite(config: DictConfig, prefix: str) -> None:
    for key in map(str, config):
        name, value = f"{prefix}{key}", config[key]
        if isinstance(value, DictConfig) and f"{name}." not in FREE_FORM:
            _check_finite(value, f"{name}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name}={value}; allowed are finite numbers")
