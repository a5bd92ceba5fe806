"""A run's checkpoints: saved atomically, rotated, found again.

In a run's ``checkpoint/`` lie the newest as ``step-<steps>`` and the one with the best score as
``best-<steps>``. They are told apart by these names: TorchRL's ``CheckpointRotation`` would read
every manifest in the folder, whoever wrote it.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchrl import torchrl_logger

from torchrl_td.checkpoint.contents import (
    FORMAT_KEY,
    FORMAT_VERSION,
    is_checkpoint,
    make_checkpoint,
    problem_of,
)
from torchrl_td.errors import InputError, first_line

_LAST, _BEST = "step", "best"  # prefixes of the two rotations


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
        InputError: if the disk is full or read-only; what was saved before is untouched.
    """
    prefix, keep = (_BEST, 1) if best else (_LAST, keep)
    path = folder / f"{prefix}-{step:012d}"
    checkpoint = make_checkpoint(about, planner, training)
    try:
        checkpoint.save(path, metadata={FORMAT_KEY: FORMAT_VERSION})
        _remove(_rotated(folder, prefix)[:-keep])
    except (OSError, RuntimeError) as error:
        # PyTorch names a line of its own code where a disk is full.
        reason = "it is not whole" if "inline_container" in str(error) else first_line(error)
        raise InputError(
            f"could not save a checkpoint to {folder}: {reason}; free some space or make it "
            f"writable, then resume (earlier checkpoints are untouched)"
        ) from error
    return path


def tidy_checkpoints(folder: Path) -> None:
    """Clears away what a kill in the middle of a save left; only for the folder's one writer."""
    for left in folder.glob(".*"):
        name, _, kind = left.name.removeprefix(".").rpartition(".")
        if kind.startswith("backup-") and not (folder / name).exists():
            left.rename(folder / name)
        elif kind.startswith(("stage-", "backup-", "delete-")):
            shutil.rmtree(left, ignore_errors=True)


def rename_damaged_after(folder: Path, step: int) -> None:
    """Renames checkpoints of later steps, which are damaged if the run resumes before them.

    Rotation would otherwise count them among those to keep.
    """
    for path in _rotated(folder, _LAST):
        if _step_of(path) > step:
            renamed = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(renamed, ignore_errors=True)
            path.rename(renamed)
            torchrl_logger.warning(f"checkpoint {path.name} is damaged; renamed to {renamed.name}")


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint that a path means.

    Args:
        path: one checkpoint; or a run's folder or its ``checkpoint`` folder, which mean the
            newest intact one; or ``checkpoint/best``.

    Raises:
        InputError: if there is none.
    """
    path = Path(path).expanduser()
    prefix = _LAST
    if path.name == _BEST and not path.exists():
        path, prefix = path.parent, _BEST
    if not path.exists():
        raise InputError(f"no checkpoint at {path}: the path does not exist")
    if (path / "checkpoint").is_dir():
        path = path / "checkpoint"
    if is_checkpoint(path):
        return path
    found = _rotated(path, prefix)
    for candidate in reversed(found):
        problem = problem_of(candidate)
        if not problem:
            return candidate
        torchrl_logger.warning(f"the checkpoint {candidate} is damaged: {problem}")
    if found:
        raise InputError(f"every checkpoint in {path} is damaged; start anew in another output_dir")
    raise InputError(
        f"no checkpoint at {path}: give a run's output_dir, its checkpoint folder, "
        f"checkpoint/best or one checkpoint in it"
    )


def _rotated(folder: Path, prefix: str) -> list[Path]:
    """By step; those with no readable manifest too, for their names promise a checkpoint."""
    found = [p for p in folder.glob(f"{prefix}-*") if p.name[len(prefix) + 1 :].isdigit()]
    return sorted(found, key=_step_of)


def _remove(old: list[Path]) -> None:
    """Under another name first, so that a kill leaves no half of a checkpoint."""
    for path in old:
        gone = path.with_name(f".{path.name}.delete-{uuid.uuid4().hex}")
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _step_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])
