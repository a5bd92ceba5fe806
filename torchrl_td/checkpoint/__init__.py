"""Checkpoints: whole, atomic, rotated, verified, and free of executable content."""

from torchrl_td.checkpoint.about import action_spec, counted_actions, described_action
from torchrl_td.checkpoint.contents import FORMAT_VERSION, describe, load_about, load_payload
from torchrl_td.checkpoint.environment import checkpoint_task, make_checkpoint_env
from torchrl_td.checkpoint.folder import (
    find_checkpoint,
    rename_damaged_after,
    save_checkpoint,
    tidy_checkpoints,
)
from torchrl_td.checkpoint.model import load_model
from torchrl_td.checkpoint.start import Start, find_start

__all__ = [
    "FORMAT_VERSION",
    "Start",
    "action_spec",
    "checkpoint_task",
    "counted_actions",
    "describe",
    "described_action",
    "find_checkpoint",
    "find_start",
    "load_about",
    "load_model",
    "load_payload",
    "make_checkpoint_env",
    "rename_damaged_after",
    "save_checkpoint",
    "tidy_checkpoints",
]
