"""Makes the demo's checkpoint from a finished run: half precision, and nothing to train on with.

    python -m torchrl_td.demo.make outputs/pointmaze/umaze-strided-seed1 torchrl_td/demo/checkpoint

Any run's checkpoint becomes a small one like this; all that plays a checkpoint takes it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from torchrl_td.checkpoint import find_checkpoint, load_about, load_payload, save_checkpoint
from torchrl_td.config import check_config, to_dict
from torchrl_td.experiment.cli import main


def make_small(run: Path, folder: Path) -> Path:
    """A checkpoint with a run's weights in half precision and without its optimizers' state.

    Args:
        run: its folder, or a checkpoint in it.
        folder: gets the new checkpoint.

    Returns:
        The new checkpoint.

    Raises:
        InputError: if there is no checkpoint, or it is damaged.
    """
    source = find_checkpoint(run)
    about = load_about(source)
    config = check_config(about["config"])
    config.output_dir, config.resume = "outputs/demo", None  # not of the machine it ran on
    dataset = {key: value for key, value in about["dataset"].items() if key != "path"}
    weights = load_payload(source, "planner", "cpu")
    weights = {name: _halved(value) for name, value in weights.items()}
    about |= {"config": to_dict(config), "dataset": dataset}
    return save_checkpoint(folder, about["step"], about, weights, {}, keep=1)


def _halved(value: Tensor) -> Tensor:
    """Matrices alone: the normaliser's scales and the biases are few, and may be large."""
    return value.half() if value.ndim > 1 and value.dtype == torch.float32 else value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run's folder, or a checkpoint in it")
    parser.add_argument("folder", type=Path, help="gets the new checkpoint")
    given = parser.parse_args()
    main(lambda: make_small(given.run, given.folder))
