"""Maze2D by D4RL's own protocol, recorded like the default data.

One long walk in gymnasium-robotics' ``PointMaze_*-v3``: a scripted controller goes to a
random cell, and from there to the next, without ever being put back. The walk is cut into
episodes of 300, 600 or 800 steps. The reward is that of one fixed goal, D4RL's, which the
controller knows nothing of and the observation (x, y, vx, vy) does not show: 1 at every step
within 0.45 m of the centre of its cell. So no episode is a good one, and a planner has to put
pieces of several together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from tqdm import trange

from torchrl_td.data.mazes.controller import Cell, Skill, Walker, free_cells, shortest_path
from torchrl_td.data.mazes.once import make_once
from torchrl_td.data.mazes.pointmaze import (
    Size,
    close_pointmaze,
    make_pointmaze,
    pointmaze_task,
    write_recording,
)
from torchrl_td.data.mazes.record import check_recording

_ARRIVED = 0.15  # metres from the cell the controller is on its way to
_PATIENCE = 400  # steps after which it takes another one


def walk(env: gymnasium.Env, goal_cell: Cell, seed: int) -> Iterator[dict[str, Any]]:
    """Every step of the endless walk, the same for the same seed.

    Args:
        env: an environment of :func:`torchrl_td.data.mazes.pointmaze.make_pointmaze` that is not
            truncated before the caller has enough.
        goal_cell: (row, column) of the goal that pays.
        seed: of start, cells, skills and noise.

    Yields:
        ``observation`` [4] before the step, ``action`` [2], ``reward`` and
        ``next_observation`` [4] after it.
    """
    rng = np.random.default_rng(seed)
    base: Any = env.unwrapped
    cells = free_cells(base.maze.maze_map)
    reset_seed = int(rng.integers(2**31))
    observation, _ = env.reset(seed=reset_seed, options={"goal_cell": np.array(goal_cell)})
    base.goal = base.maze.cell_rowcol_to_xy(np.array(goal_cell))  # without the reset's noise
    state = observation["observation"]
    while True:
        target = cells[rng.integers(len(cells))]
        here = tuple(int(i) for i in base.maze.cell_xy_to_rowcol(state[:2]))
        path = shortest_path(base.maze.maze_map, here, target)  # type: ignore[arg-type]
        waypoints = [tuple(base.maze.cell_rowcol_to_xy(np.array(cell))) for cell in path]
        walker = Walker(waypoints[1:] or waypoints, Skill.from_level(float(rng.uniform())), rng)
        for _ in range(_PATIENCE):
            action = np.array(walker.act(*state.tolist()), dtype=np.float32)
            after, reward, _, _, _ = env.step(action)
            yield {
                "observation": state,
                "action": action,
                "reward": float(reward),
                "next_observation": after["observation"],
            }
            state = after["observation"]
            if math.dist(state[:2], waypoints[-1]) < _ARRIVED:
                break


def record_maze2d(
    size: Size,
    steps: int | None = None,
    seed: int = 0,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> str:
    """Record the local Minari dataset ``maze2d/<size>-v0`` and return its id.

    The recording is moved to its place when whole, so one that is killed leaves no dataset.

    Args:
        size: umaze, medium or large.
        steps: at least this many transitions, in whole episodes of 300, 600, 800; None takes
            D4RL's number, 1, 2 and 4 million.
        seed: of start, cells, skills and noise.
        overwrite: replace a dataset of that id.
        progress: show a progress bar.

    Raises:
        InputError: unknown size, no steps, or the dataset exists and ``overwrite`` is False.
    """
    task = pointmaze_task(size)
    dataset_id = f"maze2d/{size}-v0"
    steps = task.steps if steps is None else steps
    check_recording(dataset_id, steps, overwrite, seed)
    length = task.max_episode_steps
    count = -(-steps // length)
    env = make_pointmaze(size, max_episode_steps=count * length + 1, disable_env_checker=True)
    spaces: Any = env.observation_space
    try:
        endless = walk(env, task.goal_cell, seed)
        episodes = [
            _episode([next(endless) for _ in range(length)])
            for _ in trange(
                count,
                desc=f"recording {dataset_id}",
                unit="episode",
                disable=None if progress else True,
            )
        ]
    finally:
        close_pointmaze(env)
    write_recording(
        dataset_id,
        size,
        episodes,
        observation_space=spaces["observation"],
        algorithm_name="scripted walker, skill drawn evenly for every leg of the walk",
        description=(
            f"One walk between random cells of {task.env_id}, seed {seed}, cut into episodes; the "
            f"reward is that of the goal in cell {task.goal_cell}, which is not observed (D4RL's "
            "maze2d)."
        ),
    )
    return dataset_id


def _episode(steps: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """A piece of the walk as the arguments of Minari's ``EpisodeBuffer``."""
    observations = [step["observation"] for step in steps] + [steps[-1]["next_observation"]]
    last = np.zeros(len(steps), dtype=bool)
    last[-1] = True
    return {
        "observations": np.stack(observations),
        "actions": np.stack([step["action"] for step in steps]),
        "rewards": np.array([step["reward"] for step in steps]),
        "terminations": np.zeros(len(steps), dtype=bool),
        "truncations": last,
    }


def ensure_maze2d(size: Size, **kwargs: Any) -> str:
    """The id of the local dataset ``maze2d/<size>-v0``, recorded now if missing.

    Args:
        size: umaze, medium or large.
        **kwargs: of :func:`record_maze2d`, where it has to be recorded.

    Raises:
        InputError: unknown size.
    """
    pointmaze_task(size)
    dataset_id = f"maze2d/{size}-v0"
    make_once(dataset_id, lambda: record_maze2d(size, **kwargs))
    return dataset_id
