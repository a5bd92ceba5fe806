"""Plays an episode to look at: plans as a picture, the walk as a video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensordict import TensorDictBase
from torchrl import torchrl_logger
from torchrl.envs import set_exploration_type
from torchrl.envs.utils import ExplorationType

from torchrl_td.config import Config, TaskConfig
from torchrl_td.envs import make_env, make_gym_env, opened
from torchrl_td.errors import TDError
from torchrl_td.evaluation import play
from torchrl_td.planner import TDPlannerActor
from torchrl_td.plotting import draw_frame, plot_plans

_FRAMES = 150  # of a video, whatever the episode's length


def play_one(actor: TDPlannerActor, config: Config) -> TensorDictBase:
    """The evaluation's first episode, every plan kept.

    Returns:
        The rollout [T] on the CPU.

    Raises:
        TDError: if the environment fails.
    """
    settings = config.evaluation
    env = make_env(
        config.task,
        1,
        target_return=settings.target_return,
        seeds=[settings.seed],
        device=actor.normalizer.loc.device,
        primer=actor.make_tensordict_primer(),
    )
    mode = ExplorationType.DETERMINISTIC if settings.deterministic else ExplorationType.RANDOM
    with opened(env), set_exploration_type(mode):
        return play(env, actor, config.task.max_episode_steps)[0].cpu()


def show_plans(rollout: TensorDictBase, task: TaskConfig, path: Path) -> None:
    """Draws plans of a rollout [T] into a PNG file."""
    env = make_gym_env(task)
    try:
        plot_plans(rollout, path, env.unwrapped)
    finally:
        env.close()


def show_video(rollout: TensorDictBase, config: Config, path: Path) -> bool:
    """Writes a rollout [T] as an animated GIF; a machine that cannot render is no error.

    A maze is drawn from above, with the plans; another task is played again with the rollout's
    actions and rendered by its environment.

    Returns:
        Whether there is a video.
    """
    env = make_gym_env(config.task)
    maze = getattr(env.unwrapped, "maze", None)
    env.close()
    every = max(1, len(rollout) // _FRAMES)
    try:
        if maze is not None:
            moments = range(0, len(rollout), every)
            frames = [Image.fromarray(draw_frame(rollout, t, maze)) for t in moments]
        else:
            frames = [Image.fromarray(f) for f in _rendered(rollout, config, every)]
    except Exception as error:  # OpenGL fails with errors of many kinds, often without a message
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        torchrl_logger.warning(
            f"no video: {config.task.env} cannot be rendered here ({reason}); on a machine with "
            f"no screen try the environment variable MUJOCO_GL=egl or MUJOCO_GL=osmesa"
        )
        return False
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40 * every, loop=0)
    return True


def _rendered(rollout: TensorDictBase, config: Config, every: int) -> Iterator[np.ndarray]:
    """The environment's own pictures [height, width, 3] of the rollout's episode."""
    env: Any = make_gym_env(config.task, render_mode="rgb_array")
    try:
        env.reset(seed=config.evaluation.seed)
        for step, action in enumerate(rollout["action"].numpy()):
            if step % every == 0:
                frame = env.render()
                if frame is None:
                    raise TDError("it renders nothing")
                yield np.asarray(frame)
            if any(env.step(action)[2:4]):
                return
    finally:
        env.close()
