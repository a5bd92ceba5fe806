"""Trains Trajectory Diffuser on offline data, plays its environment and shows its plans.

    python examples/td_offline.py
    python examples/td_offline.py task=pointmaze/medium preset=small seed=1 logger=wandb
    python examples/td_offline.py resume=outputs/pointmaze/umaze-small-seed0

Settings are those of configs/td_offline.yaml and the files it composes.
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from torchrl_td.cli import main, print_results
from torchrl_td.config import check_config
from torchrl_td.run import run


@hydra.main(version_base="1.3", config_path="../configs", config_name="td_offline")
def td_offline(config: DictConfig) -> None:
    settings = check_config(config)
    summary = run(settings)
    if summary["results"]:
        print_results(summary)


if __name__ == "__main__":
    main(td_offline)
