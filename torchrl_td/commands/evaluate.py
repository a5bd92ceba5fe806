"""Evaluates a trained planner again, with other planner settings if wanted.

    td-evaluate checkpoint=outputs/pointmaze/umaze-strided-seed0
    td-evaluate checkpoint=runs/first planner.refine_steps=2 evaluation.episodes=50

Settings not given are those of the training run; those under planner. and evaluation. can be
given, and of task. what says what is played. checkpoint= is a run's folder or a checkpoint in it;
device= where it computes; output=FILE.json saves the result.
"""

from __future__ import annotations

import sys

from torchrl_td.commands.usage import help_asked
from torchrl_td.experiment import cli
from torchrl_td.experiment.checkpoint_evaluation import evaluate_checkpoint


def td_evaluate() -> None:
    """Evaluates as the words of the command line say, and prints the results."""
    if not help_asked(__doc__):
        evaluate_checkpoint(sys.argv[1:], show=cli.print_results)


def main() -> None:
    """The command."""
    cli.main(td_evaluate)
