"""One checkpoint: what is in it, and that it is what was saved.

Saved by :class:`torchrl.checkpoint.Checkpoint`, read by :mod:`torchrl_td.checkpoint.files`. A
checkpoint is a folder that holds

* ``about``: settings, spaces, dataset identity, as JSON;
* ``planner``: the weights a planner needs (the refiner's EMA), normaliser included;
* ``training``: everything a resumed run needs to continue bit for bit;
* ``verify``: SHA-256 of every file of the others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torchrl.checkpoint import (
    Checkpoint,
    CheckpointAdapter,
    JSONCheckpointAdapter,
    StateDictCheckpointAdapter,
)

from torchrl_td.checkpoint.about import check_about
from torchrl_td.checkpoint.files import FILES, check_files, digests, read_json, read_tensors
from torchrl_td.config import Config, to_dict
from torchrl_td.errors import InputError, first_line

FORMAT_VERSION = 1
FORMAT_KEY = "torchrl_td_format"  # in the manifest's metadata


class Payload:
    """A state dict on its way to a file."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.state = state

    def state_dict(self) -> Mapping[str, Any]:
        return self.state


class _Checksums(CheckpointAdapter):
    """Written last, inside the same atomic save: the digest of every other file."""

    adapter_id = "torchrl_td.checksums"

    def save(self, component: Any, path: Path, **_: Any) -> None:
        folder = path.parents[1]
        path.mkdir(parents=True, exist_ok=True)
        (folder / FILES["verify"]).write_text(json.dumps(digests(folder)))
        # On disk before the folder gets its final name: a power cut leaves no empty files there.
        for name in FILES.values():
            if name != FILES["manifest"]:
                with (folder / name).open("rb") as file:
                    os.fsync(file.fileno())

    def load(self, component: Any, path: Path, **_: Any) -> None:
        raise NotImplementedError("checkpoints are read by torchrl_td.checkpoint.files")


def make_checkpoint(
    about: Mapping[str, Any], planner: Mapping[str, Any], training: Mapping[str, Any]
) -> Checkpoint:
    """What TorchRL saves as one folder; components lie there by the order of their names."""
    checkpoint = Checkpoint()
    tensors = StateDictCheckpointAdapter("torch")
    checkpoint.register("about", dict(about), adapter=JSONCheckpointAdapter())
    checkpoint.register("planner", Payload(planner), adapter=tensors)
    checkpoint.register("training", Payload(training), adapter=tensors)
    checkpoint.register("verify", None, adapter=_Checksums())
    return checkpoint


def describe(
    config: Config,
    step: int,
    observation_dim: int,
    action: Mapping[str, Any],
    dataset: Mapping[str, Any],
) -> dict[str, Any]:
    """The ``about`` of a checkpoint: what is needed to rebuild a planner without its data.

    Args:
        config: the run's settings.
        step: training steps done.
        observation_dim: O.
        action: :func:`~torchrl_td.checkpoint.described_action` of the environment's spec.
        dataset: its identity, returns and scores.
    """
    return {
        "step": step,
        "config": to_dict(config),
        "observation_dim": observation_dim,
        **action,
        "dataset": dict(dataset),
    }


def is_checkpoint(path: Path) -> bool:
    """Whether a folder claims to be a checkpoint, of whatever program."""
    return (path / FILES["manifest"]).is_file()


def load_about(path: Path) -> dict[str, Any]:
    """Reads and checks what a checkpoint says of itself.

    Its ``config`` holds plain values: :func:`torchrl_td.config.check_config` takes it as it is.

    Raises:
        InputError: if it is damaged, foreign, of a newer format, or says what no run writes.
    """
    try:
        found = read_json(path / FILES["manifest"])["metadata"][FORMAT_KEY]
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = "" if isinstance(error, (KeyError, TypeError)) else f": {first_line(error)}"
        raise InputError(f"{path} is not a checkpoint of torchrl_td{hint}") from None
    if not isinstance(found, int) or found < 1:
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
    try:
        return check_about(read_json(path / FILES["about"]))
    except ValueError as error:
        raise InputError(f"the checkpoint {path} cannot be used: {first_line(error)}") from None


def load_payload(path: Path, name: str, device: torch.device | str) -> Mapping[str, Any]:
    """The state dict ``"planner"`` or ``"training"`` of a checkpoint.

    Raises:
        InputError: if it is damaged or holds anything but plain values and tensors.
    """
    try:
        check_files(path)
        return read_tensors(path / FILES[name], device)
    except Exception as error:  # zip, unpickling and file errors of many kinds
        raise InputError(f"the checkpoint {path} is damaged: {first_line(error)}") from error


def problem_of(path: Path) -> str:
    """What is wrong with a checkpoint's files, or an empty string."""
    try:
        check_files(path)
        if read_json(path / FILES["verify"]) != digests(path):
            return "a file does not match its checksum"
    except (OSError, ValueError) as error:
        return first_line(error)
    return ""
