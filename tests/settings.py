"""Settings for tests, composed from `configs/` as the programs compose them."""

from __future__ import annotations

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from torchrl_td.config import CONFIGS, Config, check_config


def _names(group: str) -> list[str]:
    folder = CONFIGS / group
    return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))


TASKS = _names("task")
PRESETS = _names("preset")
# A run of seconds: small networks, few steps, short episodes.
TINY_RUN = (
    "preset=small",
    "task.horizon=8",
    "task.max_episode_steps=12",
    "dataset.validation_share=0.2",
    "generator.width=16",
    "generator.layers=1",
    "refiner.channels=8",
    "refiner.multipliers=[1,2]",
    "inverse_dynamics.hidden_dims=[16]",
    "planner.refine_steps=2",
    "training.steps=12",
    "training.batch_size=4",
    "training.log_every=3",
    "training.validate_every=6",
    "training.checkpoint_every=4",
    "evaluation.episodes=2",
    "evaluation.baseline=null",
    "progress=false",
    "device=cpu",
)


def raw_composed(*words: str) -> DictConfig:
    """What hydra makes of these words on the command line."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("td_offline", overrides=list(words))


def composed(*words: str) -> Config:
    """The checked settings that these words on the command line make."""
    return check_config(raw_composed(*words))
