"""Fixtures that several test files share; the run's settings stand in the root's conftest.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
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
    "training.steps=12",
    "training.batch_size=4",
    "training.log_every=3",
    "training.validate_every=6",
    "training.checkpoint_every=4",
    "evaluation.episodes=2",
    "progress=false",
    "device=cpu",
)
TINY_EPISODES = 12
UMAZE_EPISODE_STEPS = 300


@pytest.fixture(scope="session")
def tiny_pointmaze(datasets_path: Path) -> str:
    """Source of a recorded `pointmaze/umaze` dataset of 12 episodes of 300 steps."""
    from torchrl_td.data.pointmaze import record_pointmaze

    steps = TINY_EPISODES * UMAZE_EPISODE_STEPS
    # Should a test have recorded the full dataset before, the tiny one takes its place.
    return "minari:" + record_pointmaze("umaze", steps, seed=0, overwrite=True, progress=False)


@pytest.fixture
def tiny_config(tiny_pointmaze: str, tmp_path: Path) -> Callable[..., Any]:
    """Composes the checked settings of a tiny run on the tiny dataset, with words over them."""
    from hydra import compose, initialize_config_dir

    from torchrl_td.config import check_config

    def make(*words: str) -> Any:
        given = [*TINY_RUN, f"dataset.source={tiny_pointmaze}", f"output_dir={tmp_path / 'run'}"]
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return check_config(compose("td_offline", overrides=[*given, *words]))

    return make
