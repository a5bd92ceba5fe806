"""The trained parts in a checkpoint, with no dataset at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from torchrl_td.checkpoint.build import build_model
from torchrl_td.checkpoint.contents import load_about, load_payload
from torchrl_td.checkpoint.folder import find_checkpoint
from torchrl_td.config import check_config
from torchrl_td.data.normalizer import Normalizer
from torchrl_td.errors import InputError, first_line
from torchrl_td.modules.trajectory_diffuser import Scales, TrajectoryDiffuser


def load_model(
    path: str | Path, device: torch.device | str = "cpu"
) -> tuple[TrajectoryDiffuser, dict[str, Any]]:
    """Rebuilds the trained parts (with the refiner's EMA weights) from a checkpoint.

    Returns:
        The parts on ``device``, and the checkpoint's ``about``.

    Raises:
        InputError: as :func:`find_checkpoint` and :func:`load_about`, or there is no such device.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise InputError(f"device={device!r} cannot be used: {reason}; try device='cpu'") from None
    path = find_checkpoint(path)
    about = load_about(path)
    config = check_config(about["config"])
    observation_dim = about["observation_dim"]
    model = build_model(
        config,
        observation_dim,
        len(about["action_low"]),
        Normalizer(torch.zeros(observation_dim), torch.ones(observation_dim)),
        Scales.empty(config.task.horizon, observation_dim),
    )
    try:
        model.load_state_dict(dict(load_payload(path, "planner", "cpu")))
    except RuntimeError as error:
        raise InputError(
            f"the checkpoint {path} does not fit its settings: {first_line(error)}"
        ) from error
    return model.to(device), about
