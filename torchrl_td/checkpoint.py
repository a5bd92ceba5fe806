"""Checkpoints: whole, atomic, rotated, verified, and free of executable content.

On :class:`torchrl.checkpoint.Checkpoint` and its rotation. A checkpoint folder holds

* ``about``: format version, settings, spaces, dataset identity, as JSON;
* ``planner``: the weights a planner needs (the refiner's EMA), normaliser included;
* ``training``: everything a resumed run needs to continue bit for bit;
* ``verify``: SHA-256 of every file of the others.

In a run's ``checkpoint/`` lie the newest as ``step-<steps>`` and the one with the best score as
``best-<steps>``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchrl import torchrl_logger
from torchrl.checkpoint import (
    Checkpoint,
    CheckpointAdapter,
    CheckpointRotation,
    JSONCheckpointAdapter,
    StateDictCheckpointAdapter,
)

from torchrl_td.config import Config, check_config, to_dict
from torchrl_td.data.normalizer import Normalizer
from torchrl_td.errors import TDError
from torchrl_td.modules.build import Scales, TrajectoryDiffuser

FORMAT_VERSION = 1
_FORMAT_KEY = "torchrl_td_format"  # in the manifest's metadata
_LAST, _BEST = "step", "best"  # prefixes of the two rotations


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


def _checkpoint(about: Any, planner: Payload, training: Payload) -> Checkpoint:
    checkpoint = Checkpoint()
    tensors = StateDictCheckpointAdapter("torch")
    checkpoint.register("about", about, adapter=JSONCheckpointAdapter())
    checkpoint.register("planner", planner, adapter=tensors)
    checkpoint.register("training", training, adapter=tensors)
    # Components are saved in the order of their names: this one comes last.
    checkpoint.register("verify", None, adapter=_Checksums())
    return checkpoint


def save_checkpoint(
    folder: Path,
    step: int,
    about: Mapping[str, Any],
    planner: Mapping[str, Any],
    training: Mapping[str, Any],
    *,
    keep: int = 2,
    best: bool = False,
) -> Path:
    """Saves atomically and removes the oldest beyond ``keep``.

    Args:
        folder: the run's checkpoint folder.
        step: training steps done.
        about: JSON-compatible description; see :func:`describe`.
        planner: state dict of the planner's parts.
        training: state of the training.
        keep: how many to retain.
        best: keep it as the best so far, apart from the rotation, in place of the last best.

    Raises:
        TDError: if the disk is full or read-only; what was saved before is untouched.
    """
    prefix, keep = (_BEST, 1) if best else (_LAST, keep)
    rotation = CheckpointRotation(folder, keep_last=keep, prefix=prefix)
    checkpoint = _checkpoint(dict(about), Payload(planner), Payload(training))
    try:
        return rotation.save(checkpoint, step=step, metadata={_FORMAT_KEY: FORMAT_VERSION})
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise TDError(
            f"could not save a checkpoint to {folder}: {_first_line(error)}; free some space or "
            f"make it writable, then resume (earlier checkpoints are untouched)"
        ) from error


def tidy_checkpoints(folder: Path) -> None:
    """Clears away what a kill in the middle of a save left; only for the folder's one writer."""
    for left in folder.glob(".*"):
        name, _, kind = left.name.removeprefix(".").rpartition(".")
        if kind.startswith("backup-") and not (folder / name).exists():
            left.rename(folder / name)
        elif kind.startswith(("stage-", "backup-", "delete-")):
            shutil.rmtree(left, ignore_errors=True)


def set_aside_after(folder: Path, step: int) -> None:
    """Renames checkpoints of later steps, which are damaged if the run resumes before them.

    Rotation would otherwise count them among those to keep.
    """
    for path in _rotated(folder, _LAST):
        if _step_of(path) > step:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            torchrl_logger.warning(f"checkpoint {path.name} is damaged; renamed to {aside.name}")


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


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint that a path means.

    Args:
        path: one checkpoint; or a run's folder or its ``checkpoint`` folder, which mean the
            newest intact one; or ``checkpoint/best``.

    Raises:
        TDError: if there is none.
    """
    path = Path(path).expanduser()
    prefix = _LAST
    if path.name == _BEST and not path.exists():
        path, prefix = path.parent, _BEST
    if not path.exists():
        raise TDError(f"no checkpoint at {path}: the path does not exist")
    if (path / "checkpoint").is_dir():
        path = path / "checkpoint"
    if Checkpoint.is_checkpoint(path):
        return path
    found = _rotated(path, prefix)
    for candidate in reversed(found):
        problem = _problem(candidate)
        if not problem:
            return candidate
        torchrl_logger.warning(f"the checkpoint {candidate} is damaged: {problem}")
    if found:
        raise TDError(f"every checkpoint in {path} is damaged; start anew in another output_dir")
    raise TDError(
        f"no checkpoint at {path}: give a run's output_dir, its checkpoint folder, "
        f"checkpoint/best or one checkpoint in it"
    )


def load_about(path: Path) -> dict[str, Any]:
    """Reads and checks what a checkpoint says of itself.

    Raises:
        TDError: if it is damaged, foreign or of a newer format.
    """
    try:
        found = Checkpoint.manifest(path)["metadata"].get(_FORMAT_KEY)
    except Exception as error:  # json, key and file errors of many kinds
        raise TDError(f"{path} is not a checkpoint of torchrl_td: {_first_line(error)}") from error
    if not isinstance(found, int):
        raise TDError(f"{path} is not a checkpoint of torchrl_td")
    if found > FORMAT_VERSION:
        raise TDError(
            f"the checkpoint {path} has format {found}, this torchrl_td reads up to "
            f"{FORMAT_VERSION}; update torchrl_td"
        )
    problem = _problem(path)
    if problem:
        raise TDError(
            f"the checkpoint {path} is damaged: {problem}; use another one of the same folder"
        )
    return _load(path, "about")["about"]


def load_model(
    path: str | Path, device: torch.device | str = "cpu"
) -> tuple[TrajectoryDiffuser, dict[str, Any]]:
    """Rebuilds the trained parts (with the refiner's EMA weights) from a checkpoint.

    Returns:
        The parts on ``device``, and the checkpoint's ``about``.

    Raises:
        TDError: as :func:`find_checkpoint` and :func:`load_about`.
    """
    path = find_checkpoint(path)
    about = load_about(path)
    config = check_config(about["config"])
    observation_dim = about["observation_dim"]
    model = TrajectoryDiffuser(
        config,
        observation_dim,
        len(about["action_low"]),
        Normalizer(torch.zeros(observation_dim), torch.ones(observation_dim)),
        Scales.empty(config.task.horizon, observation_dim),
    )
    try:
        model.load_state_dict(dict(load_payload(path, "planner", "cpu")))
    except RuntimeError as error:
        raise TDError(
            f"the checkpoint {path} does not fit its settings: {_first_line(error)}"
        ) from error
    return model.to(device), about


def load_payload(path: Path, name: str, device: torch.device | str) -> Mapping[str, Any]:
    """The state dict ``"planner"`` or ``"training"`` of a checkpoint."""
    return _load(path, name, device)[name]


def _load(path: Path, name: str, device: torch.device | str = "cpu") -> dict[str, Any]:
    planner, training = Payload(), Payload()
    checkpoint = _checkpoint(None, planner, training)
    try:
        result = checkpoint.load(path, components=[name], map_location=device)
    except Exception as error:  # json, zip and unpickling errors of many kinds
        raise TDError(f"the checkpoint {path} is damaged: {_first_line(error)}") from error
    payload = {"planner": planner.state, "training": training.state}
    return {**payload, **result.values}


def _problem(path: Path) -> str:
    """What is wrong with a checkpoint's files, or an empty string."""
    try:
        _checkpoint(None, Payload(), Payload()).load(path, components=["verify"])
    except Exception as error:  # json, zip and file errors of many kinds
        return _first_line(error)
    return ""


def _rotated(folder: Path, prefix: str) -> list[Path]:
    """By step; those with no readable manifest too, for their names promise a checkpoint."""
    found = [p for p in folder.glob(f"{prefix}-*") if p.name[len(prefix) + 1 :].isdigit()]
    return sorted(found, key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
