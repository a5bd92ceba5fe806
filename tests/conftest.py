"""Fixtures that several test files share; the run's settings stand in the root's conftest.py."""

from __future__ import annotations

from pathlib import Path

import pytest

TINY_EPISODES = 12
UMAZE_EPISODE_STEPS = 300


@pytest.fixture(scope="session")
def tiny_pointmaze(datasets_path: Path) -> str:
    """Source of a recorded `pointmaze/umaze` dataset of 12 episodes of 300 steps."""
    from torchrl_td.data.pointmaze import record_pointmaze

    steps = TINY_EPISODES * UMAZE_EPISODE_STEPS
    # Should a test have recorded the full dataset before, the tiny one takes its place.
    return "minari:" + record_pointmaze("umaze", steps, seed=0, overwrite=True, progress=False)
