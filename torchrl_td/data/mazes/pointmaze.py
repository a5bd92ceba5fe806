"""The default data: a scripted controller walks PointMaze, recorded through Minari.

Every episode leads from a random start cell to a random goal cell of
gymnasium-robotics' ``PointMaze_*-v3`` (continuing task, goal kept) and pays 1 a
step within 0.45 m of the goal. The controller's skill is drawn per episode, so
returns vary widely and there is something to condition on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from tqdm import tqdm

from torchrl_td.advice import install
from torchrl_td.data.mazes.controller import Cell, Skill, Walker, free_cells, shortest_path
from torchrl_td.data.mazes.once import make_once
from torchrl_td.data.mazes.processes import default_workers, in_processes
from torchrl_td.data.mazes.record import check_recording, write_dataset
from torchrl_td.data.robotics import register_robotics
from torchrl_td.errors import InputError

Size = Literal["umaze", "medium", "large"]

_CHUNK = 8  # episodes a worker hands back at once


@dataclass(frozen=True)
class PointMazeTask:
    """What is fixed about one size of the maze."""

    env_id: str
    max_episode_steps: int
    goal_cell: Cell
    """(row, column) of the goal in D4RL's maze2d of the same map."""
    ref_min_score: float
    ref_max_score: float
    """D4RL's reference returns of maze2d, for goals in ``goal_cell``."""
    steps: int
    """D4RL's number of transitions, which a recording has unless told otherwise."""


POINTMAZE_TASKS: dict[str, PointMazeTask] = {
    "umaze": PointMazeTask("PointMaze_UMaze-v3", 300, (1, 1), 23.85, 161.86, 1_000_000),
    "medium": PointMazeTask("PointMaze_Medium-v3", 600, (6, 6), 13.13, 277.39, 2_000_000),
    "large": PointMazeTask("PointMaze_Large-v3", 800, (7, 9), 6.7, 273.99, 4_000_000),
}
"""The three sizes; episodes of 300, 600 and 800 steps."""


def pointmaze_task(size: str) -> PointMazeTask:
    """What is fixed about ``size``.

    Raises:
        InputError: ``size`` is none of umaze, medium, large.

    >>> pointmaze_task("umaze").max_episode_steps
    300
    """
    if size not in POINTMAZE_TASKS:
        raise InputError(
            f"unknown PointMaze size {size!r}: take one of {', '.join(POINTMAZE_TASKS)}"
        )
    return POINTMAZE_TASKS[size]


def make_pointmaze(size: str, **kwargs: Any) -> gymnasium.Env:
    """The environment the data was recorded in: continuing task, goal kept.

    Args:
        size: umaze, medium or large.
        **kwargs: more arguments of ``gymnasium.make``, such as ``render_mode``.

    Raises:
        InputError: the size is unknown, or gymnasium-robotics is not installed.

    >>> env = make_pointmaze("umaze")
    >>> env.spec.max_episode_steps
    300
    >>> env.close()
    """
    task = pointmaze_task(size)
    try:
        register_robotics()
    except ImportError as error:
        raise InputError(f"PointMaze needs gymnasium-robotics: {install('robotics')}") from error
    settings: dict[str, Any] = {"continuing_task": True, "reset_target": False}
    settings["max_episode_steps"] = task.max_episode_steps
    return gymnasium.make(task.env_id, **{**settings, **kwargs})


def walk_episode(
    env: gymnasium.Env,
    seed: int,
    index: int,
    *,
    skill: float | None = None,
    goal_cell: Cell | None = None,
) -> dict[str, Any]:
    """One episode of the scripted controller, the same for the same seed and index.

    Args:
        env: an environment of :func:`make_pointmaze`.
        seed: the recording's seed.
        index: the episode's number in the recording.
        skill: in [0, 1]; drawn when None, low ones more often.
        goal_cell: (row, column); drawn evenly when None.

    Returns:
        ``observations`` (dict of [T+1, ...] float64), ``actions`` [T, 2] float32,
        ``rewards`` [T], ``terminations`` [T], ``truncations`` [T], ``skill``,
        ``seed`` and ``options``, with which ``env.reset`` starts the same again.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    base: Any = env.unwrapped
    maze_map = base.maze.maze_map
    cells = free_cells(maze_map)
    level = float(rng.uniform() ** 2.2) if skill is None else skill
    goal = cells[rng.integers(len(cells))] if goal_cell is None else goal_cell
    starts = [cell for cell in cells if cell != goal]
    start = starts[rng.integers(len(starts))]
    settings = Skill.from_level(level)
    via = cells[rng.integers(len(cells))] if rng.random() < settings.detour else start
    path = shortest_path(maze_map, start, via) + shortest_path(maze_map, via, goal)[1:]
    options = {"reset_cell": np.array(start), "goal_cell": np.array(goal)}
    reset_seed = int(rng.integers(2**31))
    observation, _ = env.reset(seed=reset_seed, options=options)
    waypoints = [tuple(base.maze.cell_rowcol_to_xy(np.array(cell))) for cell in path[1:-1]]
    walker = Walker([*waypoints, tuple(observation["desired_goal"])], settings, rng)
    steps = _walk(env, walker, observation)
    return {**steps, "skill": level, "seed": reset_seed, "options": options}


def _walk(env: gymnasium.Env, walker: Walker, observation: dict) -> dict[str, Any]:
    """Step ``env`` with ``walker`` from its first ``observation`` to the episode's end."""
    observations, actions, rewards, terminations, truncations = [observation], [], [], [], []
    done = False
    while not done:
        action = np.array(walker.act(*observation["observation"].tolist()), dtype=np.float32)
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        actions.append(action)
        rewards.append(float(reward))
        terminations.append(terminated)
        truncations.append(truncated)
        done = terminated or truncated
    return {
        "observations": {
            key: np.stack([o[key] for o in observations]) for key in sorted(observations[0])
        },
        "actions": np.stack(actions),
        "rewards": np.array(rewards),
        "terminations": np.array(terminations, dtype=bool),
        "truncations": np.array(truncations, dtype=bool),
    }


def _walk_chunk(size: str, seed: int, indices: Sequence[int]) -> list[dict[str, Any]]:
    """The episodes ``indices``; what a worker process runs."""
    env = make_pointmaze(size, disable_env_checker=True)
    try:
        return [walk_episode(env, seed, index) for index in indices]
    finally:
        close_pointmaze(env)


def close_pointmaze(env: gymnasium.Env) -> None:
    """Close ``env`` and remove the model file it wrote into the temporary directory."""
    Path(env.unwrapped.tmp_xml_file_path).unlink(missing_ok=True)  # type: ignore[attr-defined]
    env.close()


def _walk_all(size: str, seed: int, episodes: int, workers: int, progress: bool) -> list[dict]:
    """All episodes in order, whatever the number of workers."""
    task = pointmaze_task(size)
    chunks = [range(i, min(i + _CHUNK, episodes)) for i in range(0, episodes, _CHUNK)]
    recorded: list[dict] = []
    with tqdm(
        total=episodes * task.max_episode_steps,
        desc=f"recording pointmaze/{size}",
        unit="step",
        unit_scale=True,
        disable=None if progress else True,
    ) as bar:
        walk = partial(_walk_chunk, size, seed)
        for part in in_processes(walk, chunks, min(workers, len(chunks))):
            recorded.extend(part)
            bar.update(sum(len(episode["rewards"]) for episode in part))
    return recorded


def record_pointmaze(
    size: Size,
    steps: int | None = None,
    seed: int = 0,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> str:
    """Record the local Minari dataset ``pointmaze/<size>-v0`` and return its id.

    The recording is written beside its place and moved there when whole, so one
    that is killed half way leaves no dataset. The same seed gives the same data
    for any number of workers.

    Args:
        size: umaze, medium or large.
        steps: at least this many transitions, in whole episodes of 300, 600, 800; None takes
            D4RL's number, 1, 2 and 4 million.
        seed: of skills, cells and noise.
        workers: processes that walk, each about 12,500 steps a second; None takes one for each
            processor, on Linux, and one elsewhere, where more need the usual
            ``if __name__ == "__main__"`` in the calling script.
        overwrite: replace a dataset of that id.
        progress: show a progress bar.

    Raises:
        InputError: unknown size, no steps, or the dataset exists and ``overwrite`` is False.
    """
    task = pointmaze_task(size)
    dataset_id = f"pointmaze/{size}-v0"
    steps = task.steps if steps is None else steps
    check_recording(dataset_id, steps, overwrite, seed)
    if workers is None:
        workers = default_workers()
    if workers < 1:
        raise InputError(f"recording needs workers >= 1, got {workers}")
    episodes = -(-steps // task.max_episode_steps)
    recorded = _walk_all(size, seed, episodes, workers, progress)
    write_recording(
        dataset_id,
        size,
        [{k: v for k, v in episode.items() if k != "skill"} for episode in recorded],
        algorithm_name="scripted walker, its skill in [0, 1] drawn anew for each episode",
        description=(
            f"Random start and goal cells in {task.env_id}, seed {seed}; shortest path and PD "
            "control with detours, pauses and action noise by skill."
        ),
        metadata=[{"skill": episode["skill"]} for episode in recorded],
    )
    return dataset_id


def write_recording(
    dataset_id: str, size: str, episodes: Sequence[Mapping[str, Any]], **about: Any
) -> None:
    """Write episodes recorded in the maze as a local Minari dataset.

    Args:
        dataset_id: of the dataset.
        size: umaze, medium or large.
        episodes: each the arguments of Minari's ``EpisodeBuffer`` but its number.
        **about: more arguments of :func:`torchrl_td.data.mazes.record.write_dataset`.
    """
    task, env = pointmaze_task(size), make_pointmaze(size)
    try:
        write_dataset(
            dataset_id,
            episodes,
            env,
            references=(task.ref_min_score, task.ref_max_score),
            requirements=["gymnasium-robotics>=1.4.2"],
            **about,
        )
    finally:
        close_pointmaze(env)


def ensure_pointmaze(size: Size, **kwargs: Any) -> str:
    """The id of the local dataset ``pointmaze/<size>-v0``, recorded now if missing.

    Args:
        size: umaze, medium or large.
        **kwargs: of :func:`record_pointmaze`, where it has to be recorded.

    Raises:
        InputError: unknown size.
    """
    pointmaze_task(size)
    dataset_id = f"pointmaze/{size}-v0"
    make_once(dataset_id, lambda: record_pointmaze(size, **kwargs))
    return dataset_id
