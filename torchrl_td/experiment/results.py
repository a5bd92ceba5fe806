"""The contents of results.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from torchrl_td.config import Config, to_dict, unread_settings
from torchrl_td.experiment.evaluate import EvaluationResult
from torchrl_td.experiment.run_folder import versions
from torchrl_td.training.trainer import Trainer

# Settings that stand elsewhere in results.json, that only give others their value, or that change
# where and how fast a run goes and not what comes of it.
_NOT_COMPARED = {
    "": (
        "init_from",
        "seed",
        "preset",
        "device",
        "output_dir",
        "resume",
        "progress",
        "logger",
        "planner",
    ),
    "task": (
        "name",
        "refine_steps",
        "guidance_scale",
        "target_return",
        "learning_rate",
        "training_steps",
        "strided_steps",
        "scored",
        "pays_any_goal",
    ),
    "dataset": ("source", "sources"),
    "training": (
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "stop_after",
        "compile",
        "cudagraph",
        "threads",
    ),
    "evaluation": ("target_return", "workers", "compile", "baseline"),
}


def describe_run(config: Config, dataset: Mapping[str, Any], step: int) -> dict[str, Any]:
    """What two results must share to be two seeds of one experiment, and the seed.

    Args:
        config: the run's settings, or those it was evaluated again with.
        dataset: its identity, and the returns and scores of its own episodes.
        step: training steps done.

    Returns:
        JSON-compatible. ``settings`` has all that a score depends on and no other entry names.

    Examples:
        >>> from torchrl_td.config import Config
        >>> from torchrl_td.experiment.results import describe_run
        >>> described = describe_run(Config(seed=3), {"source": "s", "hash": "1f"}, 100)
        >>> described["seed"], described["planner"]["sampler"]
        (3, 'ddpm')
        >>> described["settings"]["generator"]["kind"], "seed" in described["settings"]
        ('transformer', False)
    """
    settings = to_dict(config)
    planless, planner = "planner" in unread_settings(config), vars(config.planner).copy()
    if config.value.enabled:
        planner["returns_floor_share"] = None  # of returns, and not of scores
    for section, keys in _NOT_COMPARED.items():
        for key in keys:
            (settings[section] if section else settings).pop(key, None)
    if config.init_from is None:
        del settings["init_normalizer"]
    for name in unread_settings(config):
        section, _, key = name.partition(".")
        if key:
            settings.get(section, {}).pop(key, None)
        else:
            settings.pop(section, None)
    return {
        "algorithm": config.algorithm.name,
        "task": config.task.name,
        "dataset": dict(dataset),
        "environment": config.task.env,
        "preset": None if planless else config.preset,
        "seed": config.seed,
        "training_steps": step,
        "target_return": config.evaluation.target_return,
        "planner": {} if planless else planner,
        "settings": settings,
    }


def summarize(
    trainer: Trainer,
    dataset: Mapping[str, Any],
    seconds: float,
    results: list[EvaluationResult],
) -> dict[str, Any]:
    """A run in a form that can be published: what was trained, on what, where, and its scores.

    Args:
        trainer: with the run's settings and networks.
        dataset: its identity, and the returns and scores of its own episodes.
        seconds: spent training, over all starts of the run.
        results: one for each planner setting that was evaluated.

    Returns:
        JSON-compatible.
    """
    config = trainer.config
    return {
        **describe_run(config, dataset, trainer.step),
        "training_seconds": round(seconds, 1),
        "parameters": trainer.model.parameter_counts(),
        "device": str(trainer.device),
        "threads": torch.get_num_threads(),
        "processes": trainer.world.size,
        "versions": versions(),
        "results": [result.to_dict() for result in results],
    }
