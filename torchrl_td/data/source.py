"""Steps as every source hands them over, and what tells its files from others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from torchrl_td.errors import InputError

_BLOCK = 1 << 22  # bytes read at once
_WHOLE = 1 << 26  # files of up to this size together are hashed whole
_SAMPLES = 64  # blocks read of larger ones
_SAMPLE = 1 << 16  # bytes of such a block

CHUNK_STEPS = 1 << 16
"""How many steps a source reads at once, more or less: whole episodes."""


class Steps(NamedTuple):
    """n steps in order, whole trajectories."""

    observation: Any  # [n, O], array or tensor, as are the others
    action: Any  # [n, A]
    next_observation: Any  # [n, O]
    reward: Any  # [n] or [n, 1]
    terminated: Tensor  # [n] bool
    truncated: Tensor  # [n] bool
    ends: Tensor  # [n] bool, a trajectory's last step, be it terminated, truncated or neither


@dataclass
class Counts:
    """What has been read of a source so far."""

    rows: int = 0
    trajectories: int = 0
    unfinished: int = 0
    """Trajectories that end neither terminated nor truncated."""
    unfinished_rows: int = 0

    def warning(self, name: str) -> str | None:
        """What to say of the trajectories that were left out, if any were.

        Args:
            name: of the source.

        Raises:
            InputError: they are all there is.
        """
        if not self.unfinished:
            return None
        what = (
            f"{name}: {self.unfinished} of {self.trajectories} trajectories "
            f"({self.unfinished_rows:,} of {self.rows:,} steps) end neither terminated nor "
            "truncated, or break off, so their returns are not known"
        )
        remedy = "mark the last step of those that are whole as truncated"
        if self.unfinished == self.trajectories:
            raise InputError(f"{what}; {remedy}, or record whole ones")
        return f"{what}: they are left out; {remedy}"


@dataclass(frozen=True)
class Source:
    """Where steps come from."""

    name: str
    """As the user wrote it, for messages."""
    path: Path
    """The file or folder it was resolved to."""
    files: Sequence[Path]
    """What the data is read from."""
    chunks: Callable[[], Iterator[Steps]]
    """Reads it: whole episodes, a bounded number of steps at once."""
    steps: int
    """How many steps there are, for the progress bar."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """What the file calls ``observation``, ``action``, ``next/observation``, ``next/reward``."""
    variant: Mapping[str, Any] = field(default_factory=dict)
    """Settings that change what is read, such as the observation keys."""


def files_identity(files: Sequence[Path], root: Path) -> dict[str, Any]:
    """Size, number and a hash of files by name, size, times of change and contents.

    Files of more than 64 MiB together are read in part: 64 blocks of 64 KiB, spread
    over them by size, at least one of each.

    Args:
        files: the files.
        root: where names are counted from.
    """
    sizes = [path.stat().st_size for path in files]
    total = sum(sizes)
    digest = hashlib.blake2b(digest_size=16)
    for path, size in zip(files, sizes, strict=True):
        name = path.relative_to(root) if path != root else Path(path.name)
        times = path.stat().st_mtime_ns, path.stat().st_ctime_ns  # the second cannot be set back
        digest.update(f"{name.as_posix()} {size} {times};".encode())
        with path.open("rb") as file:
            if total <= _WHOLE:
                while block := file.read(_BLOCK):
                    digest.update(block)
            else:
                count = max(1, round(_SAMPLES * size / total))
                for start in np.linspace(0, max(0, size - _SAMPLE), count).astype(int).tolist():
                    file.seek(start)
                    digest.update(file.read(_SAMPLE))
    return {"size": total, "count": len(files), "hash": digest.hexdigest()}
