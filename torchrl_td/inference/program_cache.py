"""Compiled programs on disk: whole or absent, and read only from the user's own folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

from torchrl import torchrl_logger

from torchrl_td.data.cache import cache_root

_MAGIC = b"torchrl_td program 1\n"
KEPT_BYTES = 2 << 30  # of all programs together; those not used for longest go first


def load_program(key: str) -> bytes | None:
    """The program stored under a hash, or ``None`` if there is none that is whole.

    Args:
        key: hexadecimal.
    """
    path = _folder() / key
    try:
        if not _is_ours(path.parent):
            return None
        with path.open("rb") as file:
            content = file.read()
        os.utime(path)  # used now
    except OSError:
        return None
    head = len(_MAGIC) + 32
    program = content[head:]
    if content[: len(_MAGIC)] == _MAGIC and content[len(_MAGIC) : head] == _hash(program):
        return program
    torchrl_logger.warning(f"{path}: damaged program, compiled anew")
    return None


def store_program(key: str, program: bytes) -> None:
    """Stores a program under a hash; says so where it cannot.

    Two processes may store the same one at once: either's is whole, and the last one stays.

    Args:
        key: hexadecimal.
        program: what :func:`load_program` is to give.
    """
    folder = _folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(folder):
            raise PermissionError("others may write to it")
        _write(folder / key, _MAGIC + _hash(program) + program)
        _tidy(folder)
    except OSError as error:
        torchrl_logger.warning(
            f"{folder}: compiled plans cannot be kept ({error}); set TORCHRL_TD_CACHE to a folder "
            f"of your own"
        )


def _folder() -> Path:
    return cache_root() / "openvino"


def _is_ours(folder: Path) -> bool:
    """Whether the folder is this user's and nobody else may write to it."""
    about = folder.stat()
    return about.st_uid == os.getuid() and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _write(path: Path, content: bytes) -> None:
    handle, staging = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(staging, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(staging)
        raise


def _tidy(folder: Path) -> None:
    """Removes the programs not used for longest where all together are too large."""
    programs = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another writer's, renamed meanwhile
            about = path.stat()
            if stat.S_ISREG(about.st_mode):
                programs.append((about, path))
    programs.sort(key=lambda pair: pair[0].st_mtime)
    room = KEPT_BYTES - sum(about.st_size for about, _ in programs)
    for about, path in programs[:-1]:
        if room >= 0:
            return
        path.unlink(missing_ok=True)
        room += about.st_size


def _hash(program: bytes) -> bytes:
    return hashlib.sha256(program).digest()
