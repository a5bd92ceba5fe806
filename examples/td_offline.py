"""Trains Trajectory Diffuser on offline data, plays its environment and shows its plans.

    python examples/td_offline.py
    python examples/td_offline.py task=pointmaze/medium preset=small seed=1 logger=wandb
    python examples/td_offline.py resume=outputs/pointmaze/umaze-small-seed0

Settings are those of configs/td_offline.yaml and the files it composes.
"""

from __future__ import annotations

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from torchrl_td.config import check_config
from torchrl_td.experiment.beside import baseline_beside
from torchrl_td.experiment.cli import job, main, print_results, stop
from torchrl_td.experiment.resume import folder_of
from torchrl_td.experiment.run import run

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="td_offline")
@job
def td_offline(config: DictConfig) -> None:
    settings, words = check_config(config), HydraConfig.get().overrides.task
    folder = folder_of(settings, words).expanduser()
    summary, beside = run(settings, words), []
    if summary["results"] and "stopped_by" not in summary:
        baseline = baseline_beside(folder, CONFIGS)
        beside = [] if baseline is None else [run(baseline)]
    if summary["results"] or "nothing_played" in summary:
        print_results(summary, *beside)
    for one in (summary, *beside):
        if "stopped_by" in one:
            stop(one["stopped_by"])


if __name__ == "__main__":
    main(td_offline, CONFIGS)
