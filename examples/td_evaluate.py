"""Evaluates a trained planner again, with other planner settings if wanted.

    python examples/td_evaluate.py checkpoint=outputs/pointmaze/umaze-small-seed0/checkpoint
    python examples/td_evaluate.py checkpoint=... planner.refine_steps=2 evaluation.episodes=50

Settings not given are those of the training run. ``output=FILE.json`` saves the result. Where the
package is installed, the command `td-evaluate` does the same.
"""

from __future__ import annotations

from torchrl_td.commands.evaluate import main

if __name__ == "__main__":
    main()
