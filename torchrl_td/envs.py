"""Environments as a planner needs them: Gymnasium's, with TorchRL's own transforms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import torch
from torchrl.envs import (
    CatTensors,
    Compose,
    DoubleToFloat,
    EnvBase,
    GymWrapper,
    InitTracker,
    ParallelEnv,
    RewardSum,
    SerialEnv,
    StepCounter,
    TargetReturn,
    TransformedEnv,
)

from torchrl_td.config import TaskConfig
from torchrl_td.data import observation_keys
from torchrl_td.errors import TDError


class ResetOptions(gymnasium.Wrapper):
    """Hands fixed options to every reset, such as the goal cell a task is scored on."""

    def __init__(self, env: gymnasium.Env, options: dict[str, Any]) -> None:
        super().__init__(env)
        self._options = options

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        return self.env.reset(seed=seed, options={**self._options, **(options or {})})


def make_gym_env(task: TaskConfig, render_mode: str | None = None) -> gymnasium.Env:
    """The task's Gymnasium environment, with its step limit and reset options.

    Raises:
        TDError: if the environment is unknown, its package is missing or it cannot be built.
    """
    _register_robotics()
    kwargs = dict(task.env_kwargs)
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    try:
        env = gymnasium.make(task.env, max_episode_steps=task.max_episode_steps, **kwargs)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TDError(
            f"cannot build environment {task.env!r} of task {task.name!r}: {reason}; check "
            f"task.env, task.env_kwargs and that its package is installed (pip install -e "
            f"'.[robotics]')"
        ) from error
    if not isinstance(env.action_space, gymnasium.spaces.Box):
        raise TDError(f"environment {task.env!r} has no continuous (Box) actions")
    return ResetOptions(env, dict(task.reset_options)) if task.reset_options else env


def make_base_env(task: TaskConfig, device: torch.device | str = "cpu") -> EnvBase:
    """One environment whose ``observation`` is a flat float32 vector."""
    env = GymWrapper(make_gym_env(task), device=device)
    # GymWrapper names the entries of a Dict observation; a plain one is "observation".
    keys = observation_keys(env.observation_spec)
    transforms: list[Any] = []
    if keys != ["observation"]:
        transforms.append(CatTensors(keys, "observation", del_keys=False, sort=False))
    transforms.append(DoubleToFloat())
    return TransformedEnv(env, Compose(*transforms))


def planning_transforms(target_return: float) -> Compose:
    """The transforms a planner and an evaluation need, whatever the environment.

    ``InitTracker`` marks resets, ``TargetReturn`` counts the return still asked for down by
    the rewards received, ``RewardSum`` and ``StepCounter`` keep the score.
    """
    return Compose(
        InitTracker(),
        StepCounter(),
        RewardSum(),
        TargetReturn(target_return, mode="reduce"),
    )


def make_env(
    task: TaskConfig,
    num_envs: int = 1,
    *,
    target_return: float | None = None,
    workers: int = 0,
    seed: int = 0,
    device: torch.device | str = "cpu",
    primer: Any | None = None,
) -> EnvBase:
    """A batch of the task's environments, ready for a :class:`~torchrl_td.TDPlannerActor`.

    Args:
        task: which environment.
        num_envs: how many.
        target_return: the return asked for (reward units); ``None`` takes the task's.
        workers: 0 steps them one after the other in this process, else one process each.
        seed: seed of the first; the others follow.
        device: where observations are put.
        primer: the planner's, from ``actor.make_tensordict_primer()``.

    Returns:
        An environment of batch size [num_envs].
    """

    def build() -> EnvBase:
        return make_base_env(task)

    makers: list[Callable[[], EnvBase]] = [build] * num_envs
    base = ParallelEnv(num_envs, makers) if workers else SerialEnv(num_envs, makers)
    env = TransformedEnv(
        base.to(device),
        planning_transforms(task.target_return if target_return is None else target_return),
    )
    if primer is not None:
        env.append_transform(primer)
    env.set_seed(seed)
    return env


@contextmanager
def opened(env: EnvBase) -> Iterator[EnvBase]:
    """Closes an environment at the end and restores PyTorch's number of threads.

    TorchRL's batched environments change it as they open and close, which would slow what
    follows and change its rounding.
    """
    threads = torch.get_num_threads()
    try:
        yield env
    finally:
        env.close(raise_if_closed=False)
        torch.set_num_threads(threads)


def _register_robotics() -> None:
    try:
        import gymnasium_robotics
    except ImportError:
        return  # gymnasium.make then says which environment it does not know
    gymnasium.register_envs(gymnasium_robotics)
