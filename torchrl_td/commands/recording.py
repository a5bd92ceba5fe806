"""`td-data record`: a local Minari dataset of a maze, of random actions or of a planner."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from tensordict import TensorDict
from torchrl.data import Categorical
from torchrl.envs import ExplorationType, set_exploration_type

from torchrl_td.actors.td_planner_actor import TDPlannerActor
from torchrl_td.advice import command
from torchrl_td.checkpoint import counted_actions, find_checkpoint, load_about
from torchrl_td.commands.describing import given_references
from torchrl_td.config import TaskConfig, check_config, check_stored_env
from torchrl_td.data import observation_keys, record_pointmaze
from torchrl_td.data.keys import named_keys
from torchrl_td.data.mazes.maze2d import record_maze2d
from torchrl_td.data.mazes.pointmaze import POINTMAZE_TASKS
from torchrl_td.data.mazes.record import check_seed
from torchrl_td.data.mazes.record_policy import (
    Policy,
    make_environment,
    random_policy,
    record_dataset,
)
from torchrl_td.envs.gym_wrappers import ExactGoal
from torchrl_td.errors import InputError
from torchrl_td.experiment.run_folder import versions
from torchrl_td.experiment.streams import write_to

_OF_PLANNERS = ("sample", "noise", "target_return")
_NOT_OF_MAZES = (*_OF_PLANNERS, "dataset", "checkpoint", "max_episode_steps", "ref_min", "ref_max")


def run_record(options: argparse.Namespace) -> None:
    """Record a maze, or another environment with random actions or a planner."""
    family, _, size = (options.what or "").partition("/")
    recorders: dict[str, Any] = {
        "pointmaze": partial(record_pointmaze, workers=options.workers),
        "maze2d": record_maze2d,
    }
    if family in recorders and size in POINTMAZE_TASKS:
        unread = _NOT_OF_MAZES if family == "pointmaze" else (*_NOT_OF_MAZES, "workers")
        says = (
            f"{options.what} is recorded by its own walker under its own id; leave out {{option}}"
        )
        refuse(options, unread, says)
        record = recorders[family]
        dataset_id = record(size, options.steps, options.seed, overwrite=options.overwrite)
    else:
        if family in recorders:
            sizes = ", ".join(f"{family}/{size}" for size in POINTMAZE_TASKS)
            raise InputError(f"unknown maze {options.what!r}; allowed are {sizes}")
        refuse(options, ("workers",), "PointMaze alone is recorded by several; leave out {option}")
        dataset_id = record_environment(options)
    write_to(sys.stdout, f"recorded minari:{dataset_id}\n")


def refuse(options: argparse.Namespace, unread: Sequence[str], says: str) -> None:
    """Refuse options that were given and would not be read.

    Args:
        options: of the command line.
        unread: names of those that are not.
        says: what is said of one that was given, ``{option}``.

    Raises:
        InputError: one of them was given.
    """
    for name in unread:
        value = getattr(options, name)
        if value is not None and value is not False:
            raise InputError(says.format(option=f"--{name.replace('_', '-')}"))


def record_environment(options: argparse.Namespace) -> str:
    """Record the environment named on the command line, or that of a planner's run."""
    if options.dataset is None:
        raise InputError("name the recording: --dataset <namespace>/<name>-v<number>")
    references, played = given_references(options), Played(options)
    steps = 200_000 if options.steps is None else options.steps
    try:
        return record_dataset(
            played.env,
            options.dataset,
            played.policy,
            steps,
            seed=options.seed,
            name=played.name,
            references=references or played.references,
            overwrite=options.overwrite,
            reset_options=played.reset_options,
            provenance=played.provenance,
        )
    finally:
        played.env.close()


class Played:
    """What is recorded: random actions in an environment, or a planner in its run's or another.

    Args:
        options: of the command line.

    Raises:
        InputError: there is no such environment or checkpoint, or options do not go together.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.references: tuple[float, float] | None = None
        self.reset_options: dict[str, Any] = {}
        self.provenance: dict[str, Any] = {"policy": "random actions", "seed": options.seed}
        if options.checkpoint is None:
            refuse(options, _OF_PLANNERS, "{option} is a planner's; give --checkpoint, too")
            if options.what is None:
                raise InputError("name what to record: an environment, or --checkpoint <run>")
            self.env = make_environment(options.what, max_episode_steps=options.max_episode_steps)
            self.name, self.policy = "random actions", random_policy(self.env, options.seed)
            return
        check_seed(options.seed)
        path = find_checkpoint(options.checkpoint)
        about = load_about(path)
        config = check_config(about["config"])
        check_stored_env(config, options.what, f"{command('td-data')} record ")
        self.env = self._environment(config.task, options)
        self.name = f"Trajectory Diffuser, {path.parent.parent.name or path.name}"
        noise = 0.0 if options.noise is None else options.noise
        asked = options.target_return
        asked = float(config.evaluation.target_return) if asked is None else asked
        self.provenance |= {
            "policy": config.algorithm.name,
            "checkpoint": str(options.checkpoint),
            "step": about["step"],
            "trained_on": {key: about["dataset"][key] for key in ("source", "hash")},
            "planner": vars(config.planner),
            "target_return": asked,
            "sampled": options.sample,
            "action_noise": noise,
            "versions": versions(),
        }
        self._check_takes(about)
        keys = config.task.observation_keys
        policy = planner_policy(path, asked, keys, env=self.env, sample=options.sample)
        self.policy = noisy(policy, self.env, noise, options.seed)
        torch.manual_seed(options.seed)

    def _check_takes(self, about: Mapping[str, Any]) -> None:
        space = self.env.action_space
        if isinstance(space, gymnasium.spaces.Discrete):
            has = f"{space.n} choices"
        else:
            has = f"{math.prod(space.shape or ())} numbers"
        if has != (writes := counted_actions(about)):
            raise InputError(
                f"{self.env.spec.id if self.env.spec else self.env}: its action is of {has}, what "
                f"was trained here writes {writes}"
            )

    def _environment(self, task: TaskConfig, options: argparse.Namespace) -> gymnasium.Env:
        """The run's own, with its goal and step limit, or the one that is named."""
        if options.what not in (None, task.env):
            return make_environment(options.what, max_episode_steps=options.max_episode_steps)
        if task.env is None:
            raise InputError("the run has no environment; name one: record <Gymnasium id> ...")
        self.reset_options = dict(task.reset_options)
        if task.score_min is not None and task.score_max is not None:
            self.references = (task.score_min, task.score_max)
        given = options.max_episode_steps
        steps = task.max_episode_steps if given is None else given
        env = make_environment(task.env, max_episode_steps=steps, **task.env_kwargs)
        return ExactGoal(env) if task.exact_goal else env


def noisy(policy: Policy, env: gymnasium.Env, noise: float, seed: int) -> Policy:
    """A policy with Gaussian noise on its actions.

    Args:
        policy: whose actions.
        env: whose actions are bounded.
        noise: its standard deviation, in half the range of each action.
        seed: of the noise.

    Raises:
        InputError: the noise is no number from 0 on, or the actions are not bounded.
    """
    if not 0 <= noise < math.inf:
        raise InputError(f"--noise {noise:g}: give a number of 0 or more")
    if not noise:
        return policy
    space = env.action_space
    if not isinstance(space, gymnasium.spaces.Box):
        raise InputError("--noise is for actions that are numbers, and theirs are choices")
    low, high = space.low, space.high
    if not np.isfinite(high - low).all():
        raise InputError("--noise is in shares of the actions' range, and theirs is not bounded")
    draws = np.random.default_rng(seed)
    scale = noise * (high - low) / 2

    def act(observation: Any, reward: float, first: bool) -> np.ndarray:
        return policy(observation, reward, first) + scale * draws.normal(size=scale.shape)

    return act


def planner_policy(
    checkpoint: Path,
    target_return: float,
    keys: Sequence[str] | None = None,
    *,
    env: gymnasium.Env,
    sample: bool = False,
) -> Policy:
    """A trained planner as a policy: its state is carried from step to step here.

    Args:
        checkpoint: a run's output folder, or a checkpoint in it.
        target_return: return asked for at an episode's start.
        keys: entries of a Dict observation to join, as the run's task names them.
        env: whose observations it sees, and whose actions it gives.
        sample: plan with the sampler's noise, and not deterministically.

    Raises:
        InputError: there is no checkpoint, or it is damaged.
    """
    actor = TDPlannerActor.from_checkpoint(checkpoint)
    mode = ExplorationType.RANDOM if sample else ExplorationType.DETERMINISTIC
    carried: dict[str, Any] = {}
    space: Any = env.action_space

    def act(observation: Any, reward: float, first: bool) -> np.ndarray:
        if first:
            carried["planner"] = actor.planner_spec.zero([1])
            carried["target"] = target_return
        else:
            carried["target"] -= reward
        step = TensorDict(
            {
                "observation": flat_observation(
                    observation, named_keys(keys), env.observation_space
                ),
                "target_return": torch.tensor([[carried["target"]]], dtype=torch.float32),
                "is_init": torch.tensor([[first]]),
                "planner": carried["planner"],
            },
            batch_size=[1],
        )
        with set_exploration_type(mode), torch.no_grad():
            out = actor(step)
        carried["planner"] = out["next", "planner"]
        action = out["action"][0].numpy()
        if actor.choices is None:
            return action.reshape(space.shape)
        return space.start + (action if isinstance(actor.choices, Categorical) else action.argmax())

    return act


def flat_observation(
    observation: Any, keys: Sequence[Any] | None = None, space: Any = None
) -> torch.Tensor:
    """A Gymnasium observation as the planner sees it, [1, O] float32; a 1 at each choice."""
    if not isinstance(observation, dict):
        if isinstance(space, (gymnasium.spaces.Discrete, gymnasium.spaces.MultiDiscrete)):
            observation = gymnasium.spaces.flatten(space, observation)
        return torch.as_tensor(np.asarray(observation)).reshape(1, -1).float()
    parts = []
    for key in keys or observation_keys(observation):
        value, inner = observation, space
        for name in (key,) if isinstance(key, str) else key:
            value, inner = value[name], None if inner is None else inner[name]
        parts.append(flat_observation(value, None, inner))
    return torch.cat(parts, -1)
