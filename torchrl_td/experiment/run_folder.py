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
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf

from torchrl_td.advice import resume
from torchrl_td.config import Config, read_yaml, stored_config, to_dict
from torchrl_td.errors import InputError

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
_FOLDERS = ("checkpoint", "tensorboard", "wandb")  # that a run writes into
# Any of these says that a run was started in the folder.
_RUN_FILES = ("config.yaml", "run.json", "metrics.csv", "results.json", "checkpoint")
SETTINGS = "config.yaml"


def holds_run(folder: Path) -> bool:
    """Whether a run was started in a folder."""
    return any((folder / name).exists() for name in _RUN_FILES)


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
        lock = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise _unwritable(folder, error) from None
    with os.fdopen(lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"another run is writing to output_dir={folder}; wait for it or choose another "
                f"folder"
            ) from None
        if holds_run(folder) and not resuming:
            raise InputError(
                f"output_dir={folder} already holds a run; continue it with {resume(folder)} or "
                f"choose another folder"
            )
        for name in _FOLDERS:
            if (folder / name).is_symlink():
                raise InputError(
                    f"output_dir={folder}: its {name} is a symbolic link, which is not followed; "
                    f"put the folder itself there"
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
    write_text(folder / SETTINGS, OmegaConf.to_yaml(OmegaConf.create(to_dict(config))))
    path = folder / "run.json"
    try:
        run = json.loads(path.read_text())
        run_id, starts = str(run["id"]), list(run["starts"])
    except (OSError, ValueError, KeyError, TypeError):
        # The agent of a W&B sweep has named it.
        run_id, starts = os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8], []
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
        InputError: if there is none, it is damaged or does not hold plain values.
    """
    path = folder / SETTINGS
    try:
        return stored_config(read_yaml(path))
    except InputError as error:
        reason = str(error).removeprefix(f"cannot read {path}: ")
        raise InputError(
            f"cannot read {path}: {reason}; start anew in another output_dir"
        ) from None


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def write_json(path: Path, content: Any, setting: str = "output_dir") -> None:
    """Writes JSON in one go, so that a reader never sees half of it."""
    write_text(path, json.dumps(content, indent=2) + "\n", setting)


def write_text(path: Path, text: str, setting: str = "output_dir") -> None:
    """Writes a file in one go.

    Args:
        path: of the file.
        text: what it holds.
        setting: that says where it goes, for the message.

    Raises:
        InputError: if the disk is full or the folder not writable.
    """
    try:
        with new_file(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise _unwritable(path, error, setting) from None


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes its place when it is whole; a link at either name is not followed.

    Raises:
        OSError: if it cannot be written; what was there before stays.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(temporary, flags, 0o666), "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _unwritable(path: Path, error: OSError, setting: str = "output_dir") -> InputError:
    return InputError(
        f"cannot write to {setting}: {path}: {error.strerror}; free some space, make it writable "
        f"or choose another {setting}"
    )


def _git_commit() -> str:
    """The commit of the project's own checkout; of no other that the package may lie in."""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    root = Path(__file__).resolve().parents[2]
    off = ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]  # they run programs
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    done = subprocess.run(
        ["git", "-C", str(root), *off, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=kept | {"GIT_CEILING_DIRECTORIES": str(root.parent), "GIT_OPTIONAL_LOCKS": "0"},
    )
    return done.stdout.strip()
