"""The environment that a checkpoint was trained for."""

from __future__ import annotations

from pathlib import Path

import torch
from torchrl.envs import TransformedEnv

from torchrl_td.checkpoint.contents import load_about
from torchrl_td.checkpoint.folder import find_checkpoint
from torchrl_td.config import TaskConfig, check_config, check_stored_env
from torchrl_td.envs.make import make_base_env, planning_transforms


def make_checkpoint_env(
    path: str | Path,
    target_return: float | None = None,
    *,
    env: str | None = None,
    device: torch.device | str = "cpu",
    seed: int | None = None,
) -> TransformedEnv:
    """The environment of a training run, with all that its planner reads but its own state.

    Append ``actor.make_tensordict_primer()`` for that, which collectors do themselves.

    Args:
        path: a run's ``output_dir``, its checkpoint folder, or one checkpoint in it.
        target_return: the return asked for (reward units); ``None`` takes the run's.
        env: the Gymnasium environment in place of the run's. One that imports a module, as
            ``"mine.envs:Mine-v0"``, has to be named even if it is the run's.
        device: where observations are put.
        seed: of the first episode: that of Gymnasium's ``env.reset(seed=seed)``.

    Raises:
        InputError: as :func:`find_checkpoint` and :func:`load_about`, the return is not finite, or
            the environment cannot be built.
    """
    task, asked = checkpoint_task(path, env)
    transforms = planning_transforms(asked if target_return is None else target_return)
    return make_base_env(task, device, seed).append_transform(transforms)


def checkpoint_task(path: str | Path, env: str | None = None) -> tuple[TaskConfig, float]:
    """The task that a checkpoint was trained for, and the return its evaluation asks for.

    Args:
        path: as for :func:`make_checkpoint_env`.
        env: likewise.

    Raises:
        InputError: likewise.
    """
    config = check_config(load_about(find_checkpoint(path))["config"])
    config.task.env = config.task.env if env is None else env
    check_stored_env(config, env, "env=")
    return config.task, config.evaluation.target_return
