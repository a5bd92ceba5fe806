"""Draws the README's moving picture: a trained planner on its way through a maze.

    python docs/draw_planner.py torchrl_td/demo/checkpoint docs/planner.gif --seed 1007 --steps 180

The black dot is the present, grey where it came from, orange the draft and blue the refined plan.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from torchrl_td import TDPlannerActor
from torchrl_td.checkpoint import find_checkpoint, load_about
from torchrl_td.config import stored_config
from torchrl_td.envs import make_gym_env
from torchrl_td.experiment.plotting import draw_frame
from torchrl_td.experiment.rendering import play_one

_EVERY = 2  # steps between frames
_MILLISECONDS = 60  # a frame; the environment's own are 40
_COLOURS = 48


def main() -> None:
    """Plays an episode and writes its first steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--seed", type=int, default=1000, help="of the start")
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    config = stored_config(load_about(find_checkpoint(options.checkpoint))["config"])
    config.evaluation.seed = options.seed
    config.task.max_episode_steps = options.steps
    rollout = play_one(TDPlannerActor.from_checkpoint(options.checkpoint), config)
    maze = make_gym_env(config.task).unwrapped.maze
    frames = [
        Image.fromarray(draw_frame(rollout, step, maze)).quantize(_COLOURS)
        for step in range(0, options.steps, _EVERY)
    ]
    frames[0].save(
        options.picture,
        save_all=True,
        append_images=frames[1:],
        duration=_MILLISECONDS,
        loop=0,
        optimize=True,
    )


if __name__ == "__main__":
    main()
