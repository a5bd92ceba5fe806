"""The scripted controller of the PointMaze recordings, at full skill, on a task's own episodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from torchrl_td.comparison.collecting import machine
from torchrl_td.config import Config, to_dict
from torchrl_td.data.mazes.controller import Skill, Walker, shortest_path
from torchrl_td.envs.make import make_gym_env
from torchrl_td.errors import InputError
from torchrl_td.experiment.evaluate import normalized_score
from torchrl_td.experiment.run_folder import versions

# By section, what decides which episodes are played and how they are scored.
_EPISODES = {
    "evaluation": ("episodes", "seed"),
    "task": (
        *("env_kwargs", "reset_options", "exact_goal", "max_episode_steps"),
        *("score_min", "score_max"),
    ),
}


def play_controller(config: Config) -> dict[str, Any]:
    """What it scores from the starts that an evaluation has, as results.json holds it.

    Raises:
        InputError: the task is no PointMaze.
    """
    task, settings = config.task, config.evaluation
    if not (task.env or "").startswith("PointMaze"):
        raise InputError(f"the controller walks PointMaze alone, not {task.env}")
    played = [_episode(config, settings.seed + i) for i in range(settings.episodes)]
    returns = [sum(rewards) for rewards in played]
    scores = [float(normalized_score(total, task)) for total in returns]
    result = {
        "name": "controller",
        "refine_steps": None,
        "returns": returns,
        "scores": scores,
        "lengths": [len(rewards) for rewards in played],
        "episodes": len(returns),
        "score_mean": float(np.mean(scores)),
        "score_std": float(np.std(scores)),
        "success_rate": float(np.mean([total > 0 for total in returns])),
        "seconds_per_plan_median": None,
        "seconds_per_plan_p95": None,
    }
    return {
        "algorithm": "controller",
        "task": task.name,
        "environment": task.env,
        "seed": 0,
        "preset": None,
        "training_steps": 0,
        "training_seconds": None,
        "settings": settings_of_episodes(config),
        "versions": versions(),
        "machine": machine(),
        "curves": {},
        "results": [result],
    }


def settings_of_episodes(config: Config) -> dict[str, Any]:
    """The settings that make the episodes those they are."""
    settings = to_dict(config)
    return {name: {key: settings[name][key] for key in keys} for name, keys in _EPISODES.items()}


def _episode(config: Config, seed: int) -> list[float]:
    """The rewards of one episode."""
    env = make_gym_env(config.task, seed=seed)
    try:
        observation, _ = env.reset()
        maze: Any = env.unwrapped.maze  # type: ignore[attr-defined]
        place, goal = observation["achieved_goal"], observation["desired_goal"]
        cells = [tuple(maze.cell_xy_to_rowcol(xy)) for xy in (place, goal)]
        path = shortest_path(maze.maze_map, *cells)
        points = [tuple(maze.cell_rowcol_to_xy(np.array(cell))) for cell in path[1:-1]]
        rng = np.random.default_rng(seed)
        walker = Walker([*points, tuple(goal)], Skill.from_level(1.0), rng)
        rewards, done = [], False
        while not done:
            action = np.array(walker.act(*observation["observation"].tolist()), dtype=np.float32)
            observation, reward, terminated, truncated, _ = env.step(action)
            rewards.append(float(reward))
            done = terminated or truncated
        return rewards
    finally:
        env.close()
