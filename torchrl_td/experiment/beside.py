"""The baseline that is trained beside a planner, on the same data, for the table at the end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from torchrl_td.config import Config, check_config, to_dict
from torchrl_td.experiment.run_folder import SETTINGS, read_settings

_OWN = ("algorithm", "training")  # what a baseline does not share with its planner


def baseline_beside(folder: Path, configs: Sequence[Path]) -> Config | None:
    """The settings of a planner's run with another algorithm's over them.

    Args:
        folder: the run's; the baseline's is in it.
        configs: folders of YAML files, one of which has ``algorithm/<name>.yaml``; the first that
            does counts. What has begun goes on with the settings that it has.

    Returns:
        ``None`` where the run is no planner's or wants no baseline, or several processes share it.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        return None
    planner = read_settings(folder)
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
