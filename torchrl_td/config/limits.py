"""What each setting may hold, and the check that it does."""

from __future__ import annotations

import math
from typing import Any

from omegaconf import DictConfig, OmegaConf

from torchrl_td.errors import TDError

CHOICES: dict[str, tuple[str, ...]] = {
    "generator.kind": ("transformer", "gru", "lstm"),
    "generator.predict": ("state", "change"),
    "refiner.schedule": ("linear", "cosine"),
    "refiner.coordinates": ("absolute", "displacement"),
    "inverse_dynamics.input": ("states", "change"),
    "planner.sampler": ("ddpm", "ddim"),
    "planner.init": ("draft", "noise"),
    "planner.warm_start": ("none", "previous"),
    "evaluation.compile": (
        "none",
        "auto",
        "packed",
        "tape",
        "cudagraph",
        "default",
        "reduce-overhead",
        "max-autotune",
    ),
    "logger.kind": ("csv", "wandb", "tensorboard"),
    "logger.mode": ("offline", "online"),
}
_LARGEST_SEED = 2**63 - 1  # that PyTorch's generators take
# Smallest and largest allowed value; None means no bound. A null setting is not checked.
RANGES: dict[str, tuple[float | None, float | None]] = {
    "seed": (0, _LARGEST_SEED),
    "task.horizon": (2, None),
    "task.max_episode_steps": (1, None),
    "task.training_steps": (1, None),
    "dataset.validation_share": (0, 0.5),
    "generator.width": (2, None),
    "generator.layers": (1, None),
    "generator.heads": (1, None),
    "refiner.channels": (8, None),
    "refiner.denoising_steps": (1, None),
    "refiner.condition_dropout": (0, 1),
    "refiner.max_step": (1, None),
    "planner.refine_steps": (0, None),
    "planner.evaluations": (1, None),
    "planner.temperature": (0, None),
    "planner.candidates": (1, None),
    "planner.replan_every": (1, None),
    "planner.refresh_every": (1, None),
    "planner.returns_floor_share": (0, 1),
    "training.steps": (1, None),
    "training.batch_size": (1, None),
    "training.decay_steps": (1, None),
    "training.final_learning_rate_share": (0, 1),
    "training.refiner_weight_decay": (0, None),
    "training.ema_decay": (0, None),
    "training.log_every": (1, None),
    "training.validate_every": (0, None),
    "training.evaluate_every": (0, None),
    "training.checkpoint_every": (1, None),
    "training.keep_checkpoints": (1, None),
    "training.stop_after": (1, None),
    "training.patience": (1, None),
    "training.explosion": (1, None),
    "training.threads": (1, None),
    "evaluation.episodes": (1, None),
    "evaluation.workers": (0, None),
    "evaluation.seed": (0, _LARGEST_SEED),
}
POSITIVE = ("task.returns_scale", "training.learning_rate", "training.gradient_clip")
_OFF = {"training.gradient_clip": ", or null for no clipping"}
WIDTHS = ("refiner.multipliers", "inverse_dynamics.hidden_dims", "critic.hidden_dims")
# Handed to the environment; other names of the same data.
FREE_FORM = ("task.env_kwargs.", "task.reset_options.", "dataset.sources.")


def check_values(config: Any) -> None:
    """Checks choices, ranges, and settings that need one another.

    Args:
        config: the whole settings, a ``DictConfig`` of the right keys and types.

    Raises:
        TDError: at the first value that is not allowed.
    """
    for key in ("output_dir", "resume"):
        if config[key] == "":  # which would mean the present folder
            raise TDError(f"{key} is empty; give a folder, or leave {key}= out")
    _check_finite(config, "")
    for key, choices in CHOICES.items():
        value = OmegaConf.select(config, key)
        if value not in choices:
            raise TDError(f"{key}={value!r}; allowed are {', '.join(choices)}")
    for key, (low, high) in RANGES.items():
        value = OmegaConf.select(config, key)
        if value is None:
            continue
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            raise TDError(f"{key}={value}; allowed is {bounds}")
    for key in POSITIVE:
        value = OmegaConf.select(config, key)
        if value is not None and not value > 0:
            raise TDError(f"{key}={value}; allowed is any value above 0{_OFF.get(key, '')}")
    for key in WIDTHS:
        value = OmegaConf.select(config, key)
        if any(width < 1 for width in value):
            raise TDError(f"{key}={value}; allowed are whole numbers above 0")
    _check_together(config)


def _check_together(config: Any) -> None:
    training, candidates = config.training, config.planner.candidates
    if training.ema_decay >= 1:
        raise TDError(
            f"training.ema_decay={training.ema_decay}; allowed is from 0 to below 1: at 1 the "
            f"averaged weights, which plan, stay untrained"
        )
    if training.patience is not None and not training.evaluate_every:
        raise TDError(
            f"training.patience={training.patience} needs training.evaluate_every above 0: it "
            f"counts evaluations"
        )
    if candidates > 1 and not config.critic.enabled:
        raise TDError(
            f"planner.candidates={candidates} needs critic.enabled=true, to choose among them"
        )
    trained, used = config.refiner.max_step, config.planner.refine_steps
    if trained is not None and used > trained:
        raise TDError(
            f"planner.refine_steps={used} is above refiner.max_step={trained}, the last denoising "
            f"step that is trained; lower the one or raise the other"
        )


def _check_finite(config: DictConfig, prefix: str) -> None:
    for key in map(str, config):
        name, value = f"{prefix}{key}", config[key]
        if isinstance(value, DictConfig) and f"{name}." not in FREE_FORM:
            _check_finite(value, f"{name}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise TDError(f"{name}={value}; allowed are finite numbers")
