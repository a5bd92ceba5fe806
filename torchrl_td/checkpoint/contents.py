"""One checkpoint: what is in it, and that it is what was saved.

On :class:`torchrl.checkpoint.Checkpoint`. A checkpoint is a folder that holds

* ``about``: format version, settings, spaces, dataset identity, as JSON;
* ``planner``: the weights a planner needs (the refiner's EMA), normaliser included;
* ``training``: everything a resumed run needs to continue bit for bit;
* ``verify``: SHA-256 of every file of the others.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchrl.checkpoint import (
    Checkpoint,
    CheckpointAdapter,
    JSONCheckpointAdapter,
    StateDictCheckpointAdapter,
)

from torchrl_td.config import Config, to_dict
from torchrl_td.errors import InputError, first_line

FORMAT_VERSION = 1
FORMAT_KEY = "torchrl_td_format"  # in the manifest's metadata


class Payload:
    """A state dict on its way to or from a file."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        self.state = state

    def state_dict(self) -> Mapping[str, Any]:
        assert self.state is not None
        return self.state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state = state


class _Checksums(CheckpointAdapter):
    """Written last, inside the same atomic save: the digest of every other file."""

    adapter_id = "torchrl_td.checksums"
    filename = "sha256.json"

    def save(self, component: Any, path: Path, **_: Any) -> None:
        path.mkdir(parents=True, exist_ok=True)
        (path / self.filename).write_text(json.dumps(_digests(path.parent, path)))
        # On disk before the folder gets its final name: a power cut leaves no empty files there.
        for file in path.parent.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())

    def load(self, component: Any, path: Path, **_: Any) -> bool:
        if json.loads((path / self.filename).read_text()) != _digests(path.parent, path):
            raise ValueError("a file does not match its checksum")
        return True


def _digests(folder: Path, leave_out: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and leave_out not in file.parents
    }


def make_checkpoint(about: Any, planner: Payload, training: Payload) -> Checkpoint:
    checkpoint = Checkpoint()
    tensors = StateDictCheckpointAdapter("torch")
    checkpoint.register("about", about, adapter=JSONCheckpointAdapter())
    checkpoint.register("planner", planner, adapter=tensors)
    checkpoint.register("training", training, adapter=tensors)
    # Components are saved in the order of their names: this one comes last.
    checkpoint.register("verify", None, adapter=_Checksums())
    return checkpoint


def describe(
    config: Config,
    step: int,
    observation_dim: int,
    action_low: Tensor,
    action_high: Tensor,
    dataset: Mapping[str, Any],
) -> dict[str, Any]:
    """The ``about`` of a checkpoint: what is needed to rebuild a planner without its data."""
    return {
        "step": step,
        "config": to_dict(config),
        "observation_dim": observation_dim,
        "action_low": action_low.tolist(),
        "action_high": action_high.tolist(),
        "dataset": dict(dataset),
    }


def load_about(path: Path) -> dict[str, Any]:
    """Reads and checks what a checkpoint says of itself.

    Raises:
        InputError: if it is damaged, foreign or of a newer format.
    """
    try:
        found = Checkpoint.manifest(path)["metadata"].get(FORMAT_KEY)
    except Exception as error:  # json, key and file errors of many kinds
        raise InputError(
            f"{path} is not a checkpoint of torchrl_td: {first_line(error)}"
        ) from error
    if not isinstance(found, int):
        raise InputError(f"{path} is not a checkpoint of torchrl_td")
    if found > FORMAT_VERSION:
        raise InputError(
            f"the checkpoint {path} has format {found}, this torchrl_td reads up to "
            f"{FORMAT_VERSION}; update torchrl_td"
        )
    problem = problem_of(path)
    if problem:
        raise InputError(
            f"the checkpoint {path} is damaged: {problem}; use another one of the same folder"
        )
    return _load(path, "about")["about"]


def load_payload(path: Path, name: str, device: torch.device | str) -> Mapping[str, Any]:
    """The state dict ``"planner"`` or ``"training"`` of a checkpoint."""
    return _load(path, name, device)[name]


def _load(path: Path, name: str, device: torch.device | str = "cpu") -> dict[str, Any]:
    planner, training = Payload(), Payload()
    checkpoint = make_checkpoint(None, planner, training)
    try:
        result = checkpoint.load(path, components=[name], map_location=device)
    except Exception as error:  # json, zip and unpickling errors of many kinds
        raise InputError(f"the checkpoint {path} is damaged: {first_line(error)}") from error
    payload = {"planner": planner.state, "training": training.state}
    return {**payload, **result.values}


def problem_of(path: Path) -> str:
    """What is wrong with a checkpoint's files, or an empty string."""
    try:
        make_checkpoint(None, Payload(), Payload()).load(path, components=["verify"])
    except Exception as error:  # json, zip and file errors of many kinds
        return first_line(error)
    return ""
