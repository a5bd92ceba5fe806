"""`td-data record`: a local Minari dataset of a maze, of random actions or of a planner."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from torchrl_td.actors.td_planner_actor import TDPlannerActor
from torchrl_td.checkpoint import find_checkpoint, load_about
from torchrl_td.commands.describing import given_references
from torchrl_td.data import observation_keys, record_pointmaze
from torchrl_td.data.mazes.maze2d import record_maze2d
from torchrl_td.data.mazes.pointmaze import POINTMAZE_TASKS
from torchrl_td.data.mazes.record_policy import (
    Policy,
    make_environment,
    random_policy,
    record_dataset,
)
from torchrl_td.errors import InputError
from torchrl_td.experiment.streams import write_to


def run_record(options: argparse.Namespace) -> None:
    """Record a maze, or another environment with random actions or a planner."""
    family, _, size = options.what.partition("/")
    recorders: dict[str, Any] = {
        "pointmaze": partial(record_pointmaze, workers=options.workers),
        "maze2d": record_maze2d,
    }
    if family in recorders and size in POINTMAZE_TASKS:
        if options.dataset is not None or options.checkpoint is not None:
            raise InputError(
                f"{options.what} is recorded by its own walker under its own id; leave out "
                "--dataset and --checkpoint"
            )
        record = recorders[family]
        dataset_id = record(size, options.steps, options.seed, overwrite=options.overwrite)
    else:
        dataset_id = record_environment(options)
    write_to(sys.stdout, f"recorded minari:{dataset_id}\n")


def record_environment(options: argparse.Namespace) -> str:
    """Record the environment named on the command line."""
    if options.dataset is None:
        raise InputError("name the recording: --dataset <namespace>/<name>-v<number>")
    references = given_references(options)
    env = make_environment(options.what, max_episode_steps=options.max_episode_steps)
    name, policy = "random actions", random_policy(env, options.seed)
    try:
        if options.checkpoint is not None:
            name = f"Trajectory Diffuser, {options.checkpoint.name}"
            torch.manual_seed(options.seed)
            policy = planner_policy(options.checkpoint, options.target_return)
        return record_dataset(
            env,
            options.dataset,
            policy,
            200_000 if options.steps is None else options.steps,
            seed=options.seed,
            name=name,
            references=references,
            overwrite=options.overwrite,
        )
    finally:
        env.close()


def planner_policy(checkpoint: Path, target_return: float | None) -> Policy:
    """A trained planner as a policy: its state is carried from step to step here.

    Args:
        checkpoint: a run's output folder, or a checkpoint in it.
        target_return: return asked for at an episode's start; None takes the run's.

    Raises:
        InputError: there is no checkpoint, or it is damaged.
    """
    path = find_checkpoint(checkpoint)
    actor = TDPlannerActor.from_checkpoint(path)
    if target_return is None:
        target_return = float(load_about(path)["config"]["evaluation"]["target_return"])
    carried: dict[str, Any] = {}

    def act(observation: Any, reward: float, first: bool) -> np.ndarray:
        if first:
            carried["planner"] = actor.planner_spec.zero([1])
            carried["target"] = target_return
        else:
            carried["target"] -= reward
        out = actor(
            TensorDict(
                {
                    "observation": flat_observation(observation),
                    "target_return": torch.tensor([[carried["target"]]], dtype=torch.float32),
                    "is_init": torch.tensor([[first]]),
                    "planner": carried["planner"],
                },
                batch_size=[1],
            )
        )
        carried["planner"] = out["next", "planner"]
        return out["action"][0].numpy()

    return act


def flat_observation(observation: Any) -> torch.Tensor:
    """A Gymnasium observation as the planner sees it, [1, O] float32."""
    if not isinstance(observation, dict):
        return torch.as_tensor(np.asarray(observation)).reshape(1, -1).float()
    parts = []
    for key in observation_keys(observation):
        value = observation
        for name in (key,) if isinstance(key, str) else key:
            value = value[name]
        parts.append(torch.as_tensor(np.asarray(value)).reshape(1, -1).float())
    return torch.cat(parts, -1)
