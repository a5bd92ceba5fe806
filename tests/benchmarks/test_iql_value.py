"""The way to the goal that IQL's value is measured against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.iql_value import places, value_correlation
from tests.baselines.test_baselines import make_config  # noqa: F401
from tests.settings import composed
from torchrl_td.envs.make import make_gym_env
from torchrl_td.errors import InputError
from torchrl_td.experiment.run import run


def test_the_way_goes_around_the_wall() -> None:
    """From the other arm of the U it is 6 cells to the goal, as a bird flies 2."""
    env = make_gym_env(composed("task=pointmaze/umaze").task)
    maze: Any = env.unwrapped.maze  # type: ignore[attr-defined]
    where, way, straight = places(maze, (1, 1))
    other = np.array(maze.cell_rowcol_to_xy(np.array((3, 1))))
    at = int(np.linalg.norm(where - other, axis=1).argmin())
    assert np.allclose(where[at], other)
    size = maze.maze_size_scaling
    assert (way[at], straight[at]) == pytest.approx((6 * size, 2 * size))
    assert (way >= straight - 1e-9).all() and len(where) == 7 * 9
    env.close()


def test_reads_a_run_of_iql_alone(make_config: Any, tmp_path: Path) -> None:  # noqa: F811
    run(make_config("iql"))
    found = value_correlation(tmp_path / "run")
    assert found["steps"] == 6 and -1 <= found["way"] <= 1
    run(make_config("bc", f"output_dir={tmp_path / 'bc'}"))
    with pytest.raises(InputError, match="is no run of algorithm=iql"):
        value_correlation(tmp_path / "bc")
