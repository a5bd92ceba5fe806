"""Shows a trained planner at work in PointMaze: no data and no training are needed.

    td-demo
    td-demo --seed 7 --output pictures

It plays one episode and writes `plans.png`, what it planned at four moments, and `rollout.gif`,
the whole walk with the plan at each step. No display is needed. `pip install` has brought the
planner along; the extra `robotics` brings the maze.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from torchrl_td.commands.usage import usage
from torchrl_td.demo import show
from torchrl_td.errors import check_whole
from torchrl_td.experiment import cli
from torchrl_td.experiment.streams import write_to


def td_demo() -> None:
    """Plays as the words of the command line say, and prints the score and where the files are."""
    words = argparse.ArgumentParser(
        description=usage(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("--output", type=Path, default=Path("td-demo"), help="folder; td-demo")
    words.add_argument("--seed", type=int, default=1000, help="of the episode's start; 1000")
    options = words.parse_args()
    check_whole("--seed", options.seed, 0)
    torch.set_num_threads(1)  # its networks are small: more threads wait for one another
    score, data = show(options.output, options.seed)
    lines = [f"score {score:.1f} in PointMaze umaze, where the data's mean is {data:.1f}"]
    for name, what in (("plans.png", "what it planned"), ("rollout.gif", "its walk")):
        if (options.output / name).exists():
            lines.append(f"{what}: {options.output / name}")
    write_to(sys.stdout, "\n".join(lines) + "\n")


def main() -> None:
    """The command."""
    cli.main(td_demo)
