"""The folder of a run: one run in it, one process at a time, and what it was started with."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from torchrl_td.config import Config, check_config, to_dict
from torchrl_td.errors import InputError, first_line

_PACKAGES = (
    "torch",
    "torchrl",
    "tensordict",
    "gymnasium",
    "gymnasium-robotics",
    "mujoco",
    "minari",
    "torchrl_td",
)
# Any of these says that a run was started in the folder.
_TRACES = ("config.yaml", "run.json", "metrics.csv", "results.json", "checkpoint")
SETTINGS = "config.yaml"


def holds_run(folder: Path) -> bool:
    """Whether a run was started in a folder."""
    return any((folder / name).exists() for name in _TRACES)


@contextmanager
def run_folder(folder: Path, resuming: bool) -> Iterator[Path]:
    """Makes a run's folder and keeps every other process out of it.

    Args:
        folder: ``output_dir``.
        resuming: whether it may hold a run already.

    Raises:
        InputError: if it holds a run, another process is running in it, or it is not writable.
    """
    import fcntl

    folder = folder.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise _unwritable(folder, error) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"another run is writing to output_dir={folder}; wait for it or choose another "
                f"folder"
            ) from None
        if holds_run(folder) and not resuming:
            raise InputError(
                f"output_dir={folder} already holds a run; continue it with resume={folder} or "
                f"choose another folder"
            )
        yield folder


def record_start(
    folder: Path,
    config: Config,
    dataset: Mapping[str, Any],
    overrides: Sequence[str] | None = None,
) -> str:
    """Writes ``config.yaml`` and what this start of the run depends on to ``run.json``.

    Returns:
        The run's id, the same for every start.
    """
    settings = folder / SETTINGS
    if not settings.exists():
        write_text(settings, OmegaConf.to_yaml(OmegaConf.create(to_dict(config))))
    path = folder / "run.json"
    try:
        run = json.loads(path.read_text())
        run_id, starts = str(run["id"]), list(run["starts"])
    except (OSError, ValueError, KeyError, TypeError):
        run_id, starts = uuid.uuid4().hex[:8], []
    starts.append(
        {
            "command": [sys.executable, *sys.argv],
            "overrides": list(overrides or ()),  # a launcher's command does not name them
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": versions(),
            "git_commit": _git_commit(),
            "dataset": dict(dataset),
            "host_cores": os.cpu_count(),
        }
    )
    write_json(path, {"id": run_id, "starts": starts})
    return run_id


def read_settings(folder: Path) -> Config:
    """The settings that a run was started with, from its ``config.yaml``.

    Raises:
        InputError: if there is none or it is damaged.
    """
    path = folder / SETTINGS
    try:
        given = OmegaConf.load(path)
    except Exception as error:  # yaml and file errors of many kinds
        reason = first_line(error)
        raise InputError(
            f"cannot read {path}: {reason}; start anew in another output_dir"
        ) from None
    return check_config(given)  # type: ignore[arg-type]


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def write_json(path: Path, content: Any) -> None:
    """Writes JSON in one go, so that a reader never sees half of it."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file in one go.

    Raises:
        InputError: if the disk is full or the folder not writable.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write to output_dir: {path}: {error.strerror}; free some space, make it writable "
        f"or choose another output_dir"
    )


def _git_commit() -> str:
    folder = str(Path(__file__).parent)
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: str, *arguments: str) -> str:
    command = ["git", "-C", folder, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
