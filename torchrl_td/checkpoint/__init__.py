"""Checkpoints: whole, atomic, rotated, verified, and free of executable content."""

from torchrl_td.checkpoint.contents import FORMAT_VERSION, describe, load_about, load_payload
from torchrl_td.checkpoint.folder import (
    find_checkpoint,
    save_checkpoint,
    set_aside_after,
    tidy_checkpoints,
)
from torchrl_td.checkpoint.model import load_model

__all__ = [
    "FORMAT_VERSION",
    "describe",
    "find_checkpoint",
    "load_about",
    "load_model",
    "load_payload",
    "save_checkpoint",
    "set_aside_after",
    "tidy_checkpoints",
]
