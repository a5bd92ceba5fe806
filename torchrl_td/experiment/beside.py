"""The baseline that is trained beside a planner, on the same data, for the table at the end."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from tensordict import TensorDictBase

from torchrl_td.checkpoint.model import make_model
from torchrl_td.config import Config, check_config, plan_horizon, to_dict
from torchrl_td.errors import InputError
from torchrl_td.experiment.run_folder import SETTINGS, read_settings
from torchrl_td.modules.trajectory_diffuser import Scales
from torchrl_td.training.algorithms import find_algorithm
from torchrl_td.training.random_state import own_randomness

_OWN = ("algorithm", "training")  # what a baseline does not share with its planner


def baseline_beside(planner: Config, folder: Path, configs: Sequence[Path]) -> Config | None:
    """The settings of a planner's run with another algorithm's over them.

    Args:
        planner: the run's settings.
        folder: the run's; the baseline's is in it.
        configs: folders of YAML files, one of which has ``algorithm/<name>.yaml``; the first that
            does counts. What has begun goes on with the settings that it has.

    Returns:
        ``None`` where the run is no planner's or wants no baseline, or several processes share it.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        return None
    name = planner.evaluation.baseline
    if name is None or planner.algorithm.name != "trajectory_diffuser":
        return None
    # Its training is its own: what its YAML does not name is what a run has without a preset.
    files = (configs_folder / "algorithm" / f"{name}.yaml" for configs_folder in configs)
    own = OmegaConf.load(next(file for file in files if file.is_file()))
    if (folder / name / SETTINGS).is_file():  # begun, perhaps of a file that no word names now
        begun = to_dict(read_settings(folder / name))
        own = OmegaConf.merge(own, {section: begun[section] for section in _OWN})
    shared = to_dict(planner)
    for section in _OWN:
        del shared[section]
    kept = ("log_every", "checkpoint_every", "keep_checkpoints", "threads")
    training = {key: getattr(planner.training, key) for key in kept}
    config = OmegaConf.merge({"training": training}, shared, own)
    config.output_dir, config.resume = str(folder / name), "auto"
    config.init_from, config.init_normalizer = None, "keep"  # the weights are a planner's
    return check_config(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]


def check_beside(
    baseline: Config, model: Any, action: Mapping[str, Any], episodes: TensorDictBase
) -> None:
    """Tries out, before a planner is trained, whether its baseline could be.

    Args:
        baseline: settings from :func:`baseline_beside`.
        model: the planner's, untrained.
        action: what a checkpoint says of the environment's.
        episodes: the raw dataset [N].

    Raises:
        InputError: if it cannot act by such actions or learn from such data, its sizes do not go
            together, or it needs a package that is missing.
    """
    name, normalizer = baseline.algorithm.name, copy.deepcopy(model.normalizer).cpu()
    low, high = torch.tensor(action["action_low"]), torch.tensor(action["action_high"])
    scales = Scales.empty(plan_horizon(baseline), len(normalizer.loc))
    choices = "action_choices" in action
    try:
        with own_randomness(baseline.seed):
            untrained = make_model(baseline, normalizer, scales, low, high, choices)
            find_algorithm(baseline)(untrained, baseline).keep(episodes)
    except InputError as error:
        raise InputError(f"evaluation.baseline={name}, which null leaves out: {error}") from None
