"""Plays an episode to look at: plans as a picture, the walk as a video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from PIL import Image
from tensordict import TensorDictBase
from torchrl import torchrl_logger
from torchrl.envs import EnvBase, set_exploration_type
from torchrl.envs.utils import ExplorationType
from torchrl.modules.utils import get_primers_from_module

from torchrl_td.actors.td_planner_actor import TDPlannerActor
from torchrl_td.config import Config, TaskConfig
from torchrl_td.envs.make import make_env, make_gym_env, opened
from torchrl_td.envs.own import made
from torchrl_td.errors import InputError, first_line
from torchrl_td.experiment.play import play
from torchrl_td.experiment.plotting import draw_frame, plot_plans
from torchrl_td.experiment.run_folder import new_file

_FRAMES = 150  # of a video at most, whatever the episode's length
_FRAME_SECONDS = 0.04  # at least, of the episode's own time: more frames show nothing new


def play_one(actor: TDPlannerActor, config: Config) -> TensorDictBase:
    """The evaluation's first episode, every plan kept.

    Returns:
        The rollout [T] on the CPU.

    Raises:
        InputError: if the environment fails.
    """
    settings = config.evaluation
    env = make_env(
        config.task,
        1,
        target_return=settings.target_return,
        seeds=[settings.seed],
        device=actor.normalizer.loc.device,
        primer=get_primers_from_module(actor, warn=False),
    )
    mode = ExplorationType.DETERMINISTIC if settings.deterministic else ExplorationType.RANDOM
    with opened(env), set_exploration_type(mode):
        return play(env, actor, config.task.max_episode_steps)[0].cpu()


def show_plans(rollout: TensorDictBase, task: TaskConfig, path: Path) -> None:
    """Draws plans of a rollout [T] into a PNG file."""
    if isinstance(made(task), EnvBase):
        plot_plans(rollout, path, None)  # TorchRL's have no maze
        return
    env = make_gym_env(task)
    try:
        plot_plans(rollout, path, env.unwrapped)
    finally:
        env.close()


def check_video(task: TaskConfig) -> None:
    """Tries to render a task, for a run that is to end with a video.

    Raises:
        InputError: if this machine cannot.
    """
    env: Any = None
    try:
        env = make_gym_env(task)
        if _maze(env) is None:
            env.close()
            env = make_gym_env(task, render_mode="rgb_array")
            env.reset(seed=0)
            if env.render() is None:
                raise InputError("it renders nothing")
    except Exception as error:  # OpenGL fails with errors of many kinds
        raise InputError(f"logger.video=true: {_no_renderer(task, error)}") from None
    finally:
        if env is not None:
            env.close()


def show_video(rollout: TensorDictBase, config: Config, path: Path) -> bool:
    """Writes a rollout [T] as an animated GIF at its own speed; not to be able to is no error.

    A maze is drawn from above, with the plans; another task is played again with the rollout's
    actions and rendered by its environment.

    Returns:
        Whether there is a video.
    """
    env = make_gym_env(config.task)
    maze, rate = _maze(env), env.metadata.get("render_fps", 1 / _FRAME_SECONDS)
    env.close()
    every = max(1, round(rate * _FRAME_SECONDS), -(-len(rollout) // _FRAMES))
    try:
        if maze is not None:
            moments = range(0, len(rollout), every)
            frames = [Image.fromarray(draw_frame(rollout, t, maze)) for t in moments]
        else:
            frames = [Image.fromarray(f) for f in _rendered(rollout, config, every)]
    except Exception as error:  # OpenGL fails with errors of many kinds
        torchrl_logger.warning(f"no video: {_no_renderer(config.task, error)}")
        return False
    milliseconds = round(1000 * every / rate)
    with new_file(path) as file:
        rest = frames[1:]
        frames[0].save(
            file, "GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0
        )
    return True


def _maze(env: Any) -> Any | None:
    """The maze of an environment that is drawn from above, with no need for OpenGL."""
    return getattr(env.unwrapped, "maze", None)


def _no_renderer(task: TaskConfig, error: Exception) -> str:
    reason = first_line(error)
    return (
        f"{task.env} cannot be rendered here ({reason}); on a machine with no screen install "
        f"libegl1 and set MUJOCO_GL=egl, or libosmesa6 and MUJOCO_GL=osmesa, or leave it out"
    )


def _rendered(rollout: TensorDictBase, config: Config, every: int) -> Iterator[np.ndarray]:
    """The environment's own pictures [height, width, 3] of the rollout's episode."""
    env: Any = make_gym_env(config.task, render_mode="rgb_array")
    try:
        env.reset(seed=config.evaluation.seed)
        for step, action in enumerate(rollout["action"].numpy()):
            if isinstance(env.action_space, Discrete):
                action = int(action.argmax()) if action.ndim else int(action)
            if step % every == 0:
                frame = env.render()
                if frame is None:
                    raise InputError("it renders nothing")
                yield np.asarray(frame)
            if any(env.step(action)[2:4]):
                return
    finally:
        env.close()
