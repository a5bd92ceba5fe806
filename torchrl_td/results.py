"""What results.json holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from torchrl_td.evaluation import EvaluationResult
from torchrl_td.run_folder import versions
from torchrl_td.training import Trainer


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
        "task": config.task.name,
        "dataset": dict(dataset),
        "environment": config.task.env,
        "preset": config.preset,
        "seed": config.seed,
        "training_steps": trainer.step,
        "training_seconds": round(seconds, 1),
        "target_return": config.evaluation.target_return,
        "guidance_scale": config.planner.guidance_scale,
        "candidates": config.planner.candidates,
        "parameters": trainer.model.parameter_counts(),
        "device": str(trainer.device),
        "threads": torch.get_num_threads(),
        "processes": trainer.world.size,
        "versions": versions(),
        "results": [result.to_dict() for result in results],
    }
