"""A finished run played again: another return asked for, planning otherwise, other starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from torchrl_td.checkpoint import action_spec, find_checkpoint, load_model
from torchrl_td.comparison.collecting import machine
from torchrl_td.comparison.results import Result, return_asked, settings_read
from torchrl_td.config import Config
from torchrl_td.errors import InputError
from torchrl_td.experiment.acting import make_actor, variants
from torchrl_td.experiment.evaluate import evaluate
from torchrl_td.experiment.results import describe_run
from torchrl_td.experiment.run import pick_device
from torchrl_td.experiment.run_folder import versions


def only_played_otherwise(result: Result, config: Config) -> bool:
    """Whether a result's run was trained as asked, but played otherwise."""
    described = describe_run(config, {}, 0)
    return _trained(result) == _trained(described) and _played(result) != _played(described)


def play_again(folder: Path, result: Result, config: Config) -> Result:
    """A run's result, of its newest checkpoint played as the settings say.

    Args:
        folder: the run's.
        result: what :func:`~torchrl_td.comparison.collecting.collect` found there.
        config: the settings, of the same training.

    Raises:
        InputError: the checkpoint is damaged or of another step, or the environment fails.
    """
    device = pick_device(config.device)
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    model, about = load_model(find_checkpoint(str(folder)), device)
    if about["step"] != (trained := result["training_steps"]):
        raise InputError(
            f"the run in {folder} has results of step {trained}, and its newest whole checkpoint "
            f"is of step {about['step']}; go on with resume={folder}, or give another runs="
        )
    spec = action_spec(about).to(device)
    played = [
        evaluate(make_actor(model, config, spec, refine_steps), config)
        for refine_steps in variants(config)
    ]
    seconds = result["training_seconds"]
    return {
        **result,
        **describe_run(config, result["dataset"], trained),
        "versions": versions(),
        "machine": machine(),
        "results": [one.to_dict() for one in played],
        "curves": {one.name: [[seconds, one.score_mean, one.score_std]] for one in played},
    }


def _trained(result: Result) -> dict[str, Any]:
    settings = settings_read(result)
    return {name: values for name, values in settings.items() if name != "evaluation"}


def _played(result: Result) -> tuple[Any, ...]:
    return return_asked(result), result["planner"], result["settings"]["evaluation"]
