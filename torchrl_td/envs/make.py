"""Environments as a planner needs them: Gymnasium's, with TorchRL's own transforms."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import torch
from gymnasium.wrappers import TimeLimit
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
    TargetReturn,
    TransformedEnv,
    default_info_dict_reader,
)

from torchrl_td.advice import install
from torchrl_td.config import TaskConfig
from torchrl_td.data.keys import named_keys, observation_keys, torchrl_key
from torchrl_td.data.robotics import register_robotics
from torchrl_td.envs.flat_spaces import FlatSpaces
from torchrl_td.envs.gym_wrappers import EpisodeStart, ExactGoal, StepReport
from torchrl_td.envs.own import OF_FUNCTIONS, built_anew, factory_of, flat_torchrl_env, made
from torchrl_td.envs.workers import in_worker, start_quiet_tracker
from torchrl_td.errors import InputError, check_device, check_number, check_whole, first_line


def make_gym_env(
    task: TaskConfig, render_mode: str | None = None, seed: int | None = None
) -> gymnasium.Env:
    """The task's Gymnasium environment, with its step limit and reset options.

    Args:
        task: which environment.
        render_mode: as for ``gymnasium.make``.
        seed: of the first episode: that of ``env.reset(seed=seed)``.

    Raises:
        InputError: if the environment is unknown, its package is missing, it cannot be built, or
            its actions are neither numbers of a Box nor one choice.

    Examples:
        >>> from torchrl_td.config import TaskConfig
        >>> from torchrl_td.envs.make import make_gym_env
        >>> task = TaskConfig(name="pendulum", env="Pendulum-v1", max_episode_steps=200)
        >>> make_gym_env(task).action_space.shape
        (1,)
    """
    own = made(task)
    if own is not None:
        if not isinstance(own, gymnasium.Env):
            raise InputError(f"environment {task.env!r} is TorchRL's, where Gymnasium's is needed")
        return _wrapped(TimeLimit(own, task.max_episode_steps), task, seed)
    if task.env is None:
        raise InputError(f"task {task.name!r} names no environment; give task.env=<Gymnasium id>")
    if task.env not in gymnasium.registry:
        with contextlib.suppress(ImportError):  # gymnasium.make then says what it does not know
            register_robotics()
    kwargs = dict(task.env_kwargs)
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    try:
        env = gymnasium.make(task.env, max_episode_steps=task.max_episode_steps, **kwargs)
    except Exception as error:
        reason = first_line(error)
        remedy = (
            f"check task.env, task.env_kwargs and that its package is installed "
            f"({install('robotics')})"
        )
        if task.env.startswith(OF_FUNCTIONS):
            remedy = (
                f"it was made by a function given to torchrl_td.train, which has to be named here "
                f"anew: torchrl_td.envs.register_factory({task.env!r}, function)"
            )
        raise InputError(
            f"cannot build environment {task.env!r} of task {task.name!r}: {reason}; {remedy}"
        ) from error
    # The mazes leave the model file they were built from in the temporary folder.
    model_file = getattr(env.unwrapped, "tmp_xml_file_path", None)
    if model_file is not None:
        Path(model_file).unlink(missing_ok=True)
    return _wrapped(env, task, seed)


def _wrapped(env: gymnasium.Env, task: TaskConfig, seed: int | None) -> gymnasium.Env:
    """With goal, flat spaces and start as the task wants them."""
    if task.exact_goal:
        env = ExactGoal(env)
    if FlatSpaces.needed(env):
        env = FlatSpaces(env, named_keys(task.observation_keys))
    if task.reset_options or seed is not None:
        env = EpisodeStart(env, task.reset_options, seed)
    return env


def make_report_env(task: TaskConfig, seed: int | None = None) -> StepReport:
    """The task's Gymnasium environment, with what the task names of its info in every step's.

    Args:
        task: which environment.
        seed: as in :func:`make_gym_env`.

    Raises:
        InputError: as :func:`make_gym_env`.
    """
    sub_tasks = len(task.env_kwargs.get("tasks_to_complete", ("one",)))
    gym_env = make_gym_env(task, seed=seed)
    return StepReport(gym_env, task.success_key, task.score_key, sub_tasks)


def reports(task: TaskConfig) -> tuple[str, ...]:
    """What stands beside the observation: ``success``, ``progress``, both or neither."""
    named = {"success": task.success_key, "progress": task.score_key}
    return tuple(name for name, key in named.items() if key is not None)


def make_base_env(
    task: TaskConfig, device: torch.device | str = "cpu", seed: int | None = None
) -> EnvBase:
    """One environment whose ``observation`` is a flat float32 vector.

    Where the task names them, ``success`` (bool) and ``progress`` (float) stand beside it.

    Args:
        task: which environment.
        device: where observations are put.
        seed: of the first episode, as in :func:`make_gym_env`.

    Raises:
        InputError: if it cannot be built, has not the entries ``task.observation_keys``, or there
            is no such device.

    Examples:
        >>> from torchrl_td.config import TaskConfig
        >>> from torchrl_td.envs.make import make_base_env
        >>> task = TaskConfig(name="pendulum", env="Pendulum-v1", max_episode_steps=200)
        >>> make_base_env(task).rollout(5)["observation"].shape
        torch.Size([5, 3])
    """
    check_device(device)
    if factory_of(task) is not None and isinstance(own := made(task), EnvBase):
        return flat_torchrl_env(own, task, device, seed)
    gym_env = make_report_env(task, seed)
    reported, space = gym_env.entries, gym_env.observation_space
    if isinstance(space, gymnasium.spaces.Dict) and (both := reported.keys() & space.keys()):
        raise InputError(
            f"environment {task.env!r} observes an entry {min(both)!r}, as is called what "
            f"task.success_key or task.score_key reports; leave those out, or rename the entry"
        )
    env = GymWrapper(gym_env, device=device)
    keys = _joined_keys(task, space)
    if not reported.is_empty():
        env.set_info_dict_reader(default_info_dict_reader(list(reported.keys()), reported))
    transforms: list[Any] = []
    if keys != ["observation"]:
        transforms.append(CatTensors(keys, "observation", del_keys=False, sort=False))
    transforms.append(DoubleToFloat())
    return TransformedEnv(env, Compose(*transforms))


def _joined_keys(task: TaskConfig, space: gymnasium.Space) -> list[Any]:
    """The entries that make up the observation vector, in order, as TorchRL names them."""
    there = _entries(space)
    chosen = named_keys(task.observation_keys)
    keys = []
    for key in observation_keys(space) if chosen is None else chosen:
        path = (key,) if isinstance(key, str) else key
        if path not in there:
            raise InputError(
                f"environment {task.env!r} has no observation entry {'/'.join(path)!r}; "
                f"task.observation_keys may name {', '.join('/'.join(p) for p in there)}"
            )
        path = torchrl_key(path, there)
        keys.append(path[0] if len(path) == 1 else path)
    return keys


def _entries(space: gymnasium.Space) -> list[tuple[str, ...]]:
    """Paths of all entries of an observation."""
    if not isinstance(space, gymnasium.spaces.Dict):
        return [("observation",)]
    paths: list[tuple[str, ...]] = []
    for name, entry in space.spaces.items():
        inner = isinstance(entry, gymnasium.spaces.Dict)
        paths += [(name, *path) for path in _entries(entry)] if inner else [(name,)]
    return sorted(paths)


def planning_transforms(target_return: float) -> Compose:
    """The transforms a planner and an evaluation need, whatever the environment.

    ``InitTracker`` marks resets, ``TargetReturn`` counts the return still asked for down by
    the rewards received, ``RewardSum`` keeps the score. No ``StepCounter``
    is among them, for a collector's ``max_frames_per_traj`` brings its own. Append them to an
    environment: inside another ``Compose`` TorchRL 0.14 cannot find their parents and a rollout
    ends with "index -1 is out of range".

    Args:
        target_return: the return asked for at the start of an episode (reward units).

    Raises:
        InputError: it is no finite number.

    Examples:
        >>> from torchrl.envs import GymEnv, TransformedEnv
        >>> from torchrl_td.envs.make import planning_transforms
        >>> env = TransformedEnv(GymEnv("Pendulum-v1"), planning_transforms(-200.0))
        >>> td = env.reset()
        >>> td["target_return"], td["is_init"]
        (tensor([-200.]), tensor([True]))
    """
    check_number("target_return", target_return)
    return Compose(
        InitTracker(),
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
    seeds: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    primer: Any | None = None,
) -> EnvBase:
    """A batch of the task's environments, ready for a :class:`~torchrl_td.TDPlannerActor`.

    Args:
        task: which environment.
        num_envs: how many.
        target_return: the return asked for (reward units); ``None`` takes the task's.
        workers: 0 steps them one after the other in this process, else one process each.
        seed: TorchRL's, of the first; the others follow by TorchRL's own chain of seeds.
        seeds: in its place, one for each: the first episode of each is the one that
            Gymnasium's ``env.reset(seed=...)`` starts.
        device: where observations are put.
        primer: the planner's, from ``actor.make_tensordict_primer()``.

    Returns:
        An environment of batch size [num_envs].

    Raises:
        InputError: as :func:`make_base_env`, or there are none, or seeds that are not one for each.

    Examples:
        >>> from torchrl_td.config import TaskConfig
        >>> from torchrl_td.envs.make import make_env, opened
        >>> task = TaskConfig(name="pendulum", env="Pendulum-v1", target_return=-200.0)
        >>> with opened(make_env(task, num_envs=2)) as env:
        ...     env.rollout(5)["target_return"].shape
        torch.Size([2, 5, 1])
    """
    check_whole("num_envs", num_envs, 1)
    check_whole("workers", workers, 0)
    check_device(device)
    for number in (seed,) if seeds is None else seeds:
        check_whole("a seed", number, 0)
    if seeds is not None and len(seeds) != num_envs:
        raise InputError(f"num_envs={num_envs}, but {len(seeds)} seeds; give one for each")
    if workers:
        start_quiet_tracker()
    build: Any = partial(built_anew, task.env, factory_of(task), partial(make_base_env, task))
    kwargs = [{"seed": int(number)} for number in seeds] if seeds is not None else None
    batch = ParallelEnv if workers else SerialEnv
    base = batch(
        num_envs,
        partial(in_worker, build, os.getpid()) if workers else build,
        create_env_kwargs=kwargs,
    )
    env = TransformedEnv(
        base.to(device),
        planning_transforms(task.target_return if target_return is None else target_return),
    )
    if primer is not None:
        env.append_transform(primer)
    if seeds is None:
        env.set_seed(seed)
    return env


@contextlib.contextmanager
def opened(env: EnvBase) -> Iterator[EnvBase]:
    """Closes an environment at the end and restores PyTorch's number of threads.

    TorchRL's batched environments change it as they open and close, which would slow what
    follows and change its rounding.

    Args:
        env: closed when the ``with`` block is left, by an exception too.

    Examples:
        >>> from torchrl.envs import GymEnv, SerialEnv
        >>> from torchrl_td.envs.make import opened
        >>> with opened(SerialEnv(2, lambda: GymEnv("Pendulum-v1"))) as env:
        ...     env.reset()["observation"].shape
        torch.Size([2, 3])
        >>> env.is_closed
        True
    """
    threads = torch.get_num_threads()
    try:
        yield env
    finally:
        env.close(raise_if_closed=False)
        torch.set_num_threads(threads)
