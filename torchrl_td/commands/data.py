"""Look at a dataset, or record one.

    td-data describe d4rl:path/to/file.hdf5 --picture histograms.png
    td-data describe minari:my/arm-v0 --write-task my_task.yaml
    td-data record maze2d/medium --steps 1000000 --overwrite
    td-data record Hopper-v5 --dataset my/hopper/random-v0
    td-data record --checkpoint <run> --dataset my/hopper/td-v0 --sample --noise 0.1

`describe` prints a table of what is in a dataset and warns of what looks wrong. With
`--write-task` it writes the settings of a task on that data, on which
`td-offline --config-dir . task=my_task` trains.
`record` writes a local Minari dataset: the PointMaze or Maze2D data, or any Gymnasium
environment with random actions or a trained planner, its run's own if none is named. What was
recorded is loaded by its id: `dataset.source=minari:my/hopper/random-v0`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torchrl_td.commands.describing import run_describe
from torchrl_td.commands.recording import run_record
from torchrl_td.commands.usage import usage
from torchrl_td.experiment import cli


def main(arguments: list[str] | None = None) -> None:
    """Run one command; the exit status is 2 where the user has something to mend."""
    options = parser().parse_args(arguments)
    cli.main(lambda: options.run(options))


def parser() -> argparse.ArgumentParser:
    """The two commands and their options."""
    out = argparse.ArgumentParser(
        description=usage(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = out.add_subparsers(required=True, metavar="describe | record")
    look = commands.add_parser("describe", help="print what a dataset holds")
    look.add_argument("source", help="minari:<id> or d4rl:<id or path>")
    look.add_argument("--picture", type=Path, help="histograms of returns and lengths go here")
    look.add_argument("--json", type=Path, help="the table's numbers go here")
    settings = "settings to train on it go here, my_task.yaml into a folder task"
    look.add_argument("--write-task", type=Path, metavar="FILE", help=settings)
    entries = "entries of a Dict observation to join, in this order, nested ones as goal/kettle"
    look.add_argument("--observation-keys", nargs="+", metavar="KEY", help=entries)
    limit = "of the environment, where a D4RL file marks no timeouts and its name tells none"
    look.add_argument("--max-episode-steps", type=int, metavar="STEPS", help=limit)
    look.add_argument("--ref-min", type=float, help="return that scores 0")
    look.add_argument("--ref-max", type=float, help="return that scores 100")
    look.set_defaults(run=run_describe)
    record = commands.add_parser("record", help="record a local Minari dataset")
    what = "pointmaze/umaze, maze2d/large, ... or an environment's id; else that of --checkpoint"
    record.add_argument("what", nargs="?", help=what)
    record.add_argument("--dataset", help="id to record under, <namespace>/<name>-v<number>")
    steps = "transitions, at least; else D4RL's 1, 2 or 4 million of a maze, and 200,000 elsewhere"
    record.add_argument("--steps", type=int, help=steps)
    record.add_argument("--seed", type=int, default=0)
    record.add_argument("--workers", type=int, help="processes (PointMaze only); else all cores")
    record.add_argument("--overwrite", action="store_true", help="replace a dataset of that id")
    record.add_argument("--max-episode-steps", type=int, help="other than the environment's own")
    record.add_argument("--checkpoint", type=Path, help="a trained planner; else random actions")
    sample = "plan with the sampler's noise (else deterministically)"
    record.add_argument("--sample", action="store_true", help=sample)
    noise = "on the planner's actions: its standard deviation, in half of each action's range"
    record.add_argument("--noise", type=float, help=noise)
    record.add_argument("--target-return", type=float, help="asked of the planner; else its own")
    record.add_argument("--ref-min", type=float, help="return that scores 0")
    record.add_argument("--ref-max", type=float, help="return that scores 100")
    record.set_defaults(run=run_record)
    return out
