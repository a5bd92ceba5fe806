"""Settings for tests, composed from `configs/` as the programs compose them."""

from __future__ import annotations

import copy
from functools import cache

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

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


@cache
def _chosen(*words: str) -> DictConfig:
    return raw_composed(*words)


def quickly_composed(*words: str) -> DictConfig:
    """The same with each choice of files read once by a process, which its tests share."""
    values = [word for word in words if word[0].isalpha() and not _chooses_files(word)]
    config = copy.deepcopy(_chosen(*(word for word in words if word not in values)))
    try:
        for word in OverridesParser.create().parse_overrides(values):
            OmegaConf.update(config, word.key_or_group, word.value(), merge=True)
    except OmegaConfBaseException:
        return raw_composed(*words)  # which has hydra say what is wrong
    return config


def _chooses_files(word: str) -> bool:
    key = word.partition("=")[0].partition("@")[0]
    return key.startswith("hydra.") or (CONFIGS / key).is_dir()


def composed(*words: str) -> Config:
    """The checked settings that these words on the command line make."""
    return check_config(quickly_composed(*words))
