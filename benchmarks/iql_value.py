"""IQL's value against the maze's true distance to the goal.

    python examples/td_offline.py algorithm=iql task=pointmaze/umaze
    python benchmarks/iql_value.py outputs/pointmaze/umaze-iql-seed0

A value that was learned well falls with the way that is left: the program prints the correlation of
V at rest, on a grid of the free cells, with minus the length of the shortest way to the goal. Above
0.8 is the known optimum's shape; the straight distance, which walls do not enter, is printed too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchrl_td.checkpoint import load_model
from torchrl_td.config import Config, check_config
from torchrl_td.data.mazes.controller import free_cells, shortest_path
from torchrl_td.envs.make import make_gym_env
from torchrl_td.errors import InputError
from torchrl_td.experiment.cli import main as run_program

_GRID = (-0.3, 0.0, 0.3)  # places within a cell, in its widths


def places(maze: Any, goal: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions [N, 2] on the free cells, and the way from each to the goal along cells [N], and
    as a bird flies [N]; in metres."""
    size = maze.maze_size_scaling
    target = np.array(maze.cell_rowcol_to_xy(np.array(goal)))
    positions, ways = [], []
    for cell in free_cells(maze.maze_map):
        path = shortest_path(maze.maze_map, cell, goal)
        centres = [np.array(maze.cell_rowcol_to_xy(np.array(c))) for c in path]
        for dx in _GRID:
            for dy in _GRID:
                place = centres[0] + size * np.array([dx, dy])
                following = centres[1] if len(centres) > 1 else target
                rest = size * max(len(path) - 2, 0)
                positions.append(place)
                ways.append(np.linalg.norm(following - place) + rest)
    found = np.array(positions)
    return found, np.array(ways), np.linalg.norm(found - target, axis=1)


def value_correlation(folder: Path) -> dict[str, float]:
    """Correlations of the value in a run's newest checkpoint with minus the distances.

    Raises:
        InputError: it is no run of IQL on PointMaze.
    """
    model, about = load_model(folder)
    config: Config = check_config(about["config"])
    if config.algorithm.name != "iql" or not config.task.name.startswith("pointmaze/"):
        raise InputError(f"{folder} is no run of algorithm=iql on pointmaze")
    env = make_gym_env(config.task)
    try:
        maze: Any = env.unwrapped.maze  # type: ignore[attr-defined]
        goal = tuple(config.task.reset_options["goal_cell"])
        where, way, straight = places(maze, goal)
        target = np.array(maze.cell_rowcol_to_xy(np.array(goal)))
    finally:
        env.close()
    # As the data has it: position, speed, goal (see torchrl_td.data.keys).
    rows = np.concatenate([where, np.zeros_like(where), np.tile(target, (len(where), 1))], 1)
    with torch.no_grad():
        observation = model.normalizer.normalize(torch.tensor(rows, dtype=torch.float32))
        value = model.value(observation).squeeze(-1).numpy()
    return {
        "way": float(np.corrcoef(value, -way)[0, 1]),
        "straight": float(np.corrcoef(value, -straight)[0, 1]),
        "steps": float(about["step"]),
    }


def program() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run's output_dir")
    found = value_correlation(parser.parse_args().run)
    sys.stdout.write(
        f"after {found['steps']:.0f} steps: correlation of V with minus the way to the goal "
        f"{found['way']:.3f}, with minus the straight distance {found['straight']:.3f}\n"
    )


if __name__ == "__main__":
    run_program(program)
