"""Evaluates a trained planner again, with other planner settings if wanted.

    python examples/td_evaluate.py checkpoint=outputs/pointmaze/umaze-small-seed0/checkpoint
    python examples/td_evaluate.py checkpoint=... planner.refine_steps=2 evaluation.episodes=50

Settings not given are those of the training run. ``output=FILE.json`` saves the result.
"""

from __future__ import annotations

import sys

from torchrl_td.experiment.cli import evaluate_checkpoint, main, print_results


def td_evaluate() -> None:
    print_results(evaluate_checkpoint(sys.argv[1:]))


if __name__ == "__main__":
    main(td_evaluate)
