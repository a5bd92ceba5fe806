"""Trains Trajectory Diffuser on offline data, plays its environment and shows its plans.

    python examples/td_offline.py
    python examples/td_offline.py task=pointmaze/medium preset=small seed=1 logger=wandb
    python examples/td_offline.py resume=outputs/pointmaze/umaze-small-seed0

Settings are those of configs/td_offline.yaml and the files it composes. Where the package is
installed, the command `td-offline` does the same.
"""

from __future__ import annotations

from torchrl_td.commands.offline import main

if __name__ == "__main__":
    main()
