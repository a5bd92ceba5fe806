"""Environments that are made by a function, and not by Gymnasium's registry."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import gymnasium
import torch
from torchrl.data import Composite
from torchrl.envs import (
    CatTensors,
    Compose,
    DoubleToFloat,
    DTypeCastTransform,
    EnvBase,
    StepCounter,
    TransformedEnv,
)

from torchrl_td.config import TaskConfig
from torchrl_td.data.images import check_no_image
from torchrl_td.data.keys import named_keys
from torchrl_td.errors import InputError, first_line

Factory = Callable[[], Any]
"""Makes a Gymnasium or a TorchRL environment."""

OF_FUNCTIONS = "own/"
"""What the names begin with that :func:`torchrl_td.train` gives."""

_FACTORIES: dict[str, Factory] = {}


def register_factory(name: str, factory: Factory) -> str:
    """Has ``task.env=name`` mean what a function makes, in this process and its workers.

    Args:
        name: of the environment, in place of a Gymnasium id.
        factory: called for each environment, without arguments: ``task.env_kwargs`` are not for it.

    Returns:
        The name.

    Examples:
        >>> import gymnasium
        >>> from torchrl_td.config import TaskConfig
        >>> from torchrl_td.envs import make_base_env, register_factory
        >>> name = register_factory("own/pendulum", lambda: gymnasium.make("Pendulum-v1", g=9.0))
        >>> make_base_env(TaskConfig(name="mine", env=name)).rollout(3)["observation"].shape
        torch.Size([3, 3])
    """
    _FACTORIES[name] = factory
    return name


def free_name(name: str, factory: Factory) -> str:
    """A name that no other function has: this one, or with a number, ``own/make-2``."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(one for one in names if _FACTORIES.get(one, factory) is factory)


def factory_of(task: TaskConfig) -> Factory | None:
    """The function that makes a task's environment, if one does."""
    return _FACTORIES.get(task.env or "")


def made(task: TaskConfig) -> Any | None:
    """The environment that a task's function makes; None where it has none.

    Raises:
        InputError: the function fails, or makes something else.
    """
    factory = factory_of(task)
    if factory is None:
        return None
    try:
        env = factory()
    except Exception as error:  # of any kind
        raise InputError(
            f"the function that makes environment {task.env!r} fails: {first_line(error)}"
        ) from error
    if not isinstance(env, (gymnasium.Env, EnvBase)):
        raise InputError(
            f"the function that makes environment {task.env!r} gives a {type(env).__name__}; a "
            f"Gymnasium or TorchRL environment is needed"
        )
    return env


def flat_torchrl_env(
    env: EnvBase, task: TaskConfig, device: torch.device | str, seed: int | None
) -> EnvBase:
    """A TorchRL environment whose ``observation`` is one float32 vector, with the step limit.

    Args:
        env: of no batch size.
        task: its step limit, and the entries that make up the observation.
        device: where observations are put.
        seed: of the first episode.

    Raises:
        InputError: it is a batch of environments, an entry is missing or no vector, or the task
            has options of Gymnasium's.
    """
    if task.reset_options or task.exact_goal:
        raise InputError(
            f"environment {task.env!r} is TorchRL's, which task.reset_options and task.exact_goal "
            f"do not reach; leave them out, and have its function make it so"
        )
    if env.batch_size:
        raise InputError(
            f"environment {task.env!r} has batch size {list(env.batch_size)}; its function is to "
            f"make one environment, of which batches are made"
        )
    keys = named_keys(task.observation_keys) or ["observation"]
    for key in keys:
        _check_entry(env.observation_spec, key, f"environment {task.env!r}")
    types = {key: env.observation_spec[key].dtype for key in keys}
    transforms: list[Any] = [
        DTypeCastTransform(dtype, torch.float32, in_keys=[key])
        for key, dtype in types.items()
        if not dtype.is_floating_point
    ]
    if keys != ["observation"]:
        transforms.append(CatTensors(keys, "observation", del_keys=False, sort=False))
    limited = [*transforms, DoubleToFloat(), StepCounter(max_steps=task.max_episode_steps)]
    out = TransformedEnv(env.to(device), Compose(*limited))
    if seed is not None:
        out.set_seed(seed)
    return out


def _check_entry(specs: Composite, key: Any, name: str) -> None:
    """Refuses an entry of the observation that is missing or no vector."""
    there = list(specs.keys(True, True))
    if key not in there:
        listed = ", ".join("/".join(k) if isinstance(k, tuple) else k for k in there)
        raise InputError(
            f"{name} has no observation entry {key!r}; task.observation_keys may name {listed}"
        )
    check_no_image(specs[key].shape, f"{name}: {key}")
    if specs[key].ndim != 1:
        raise InputError(
            f"{name}: {key!r} has shape {list(specs[key].shape)}, where a vector is planned for; "
            f"append FlattenObservation(...) to it"
        )


def built_anew(
    name: str | None, factory: Factory | None, build: Callable[..., EnvBase], **kwargs: Any
) -> EnvBase:
    """Builds an environment in a worker process, which may not know the function yet."""
    if factory is not None and name is not None:
        register_factory(name, factory)
    return build(**kwargs)
