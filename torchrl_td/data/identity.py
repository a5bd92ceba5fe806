"""What tells one dataset, or one state of its files, from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_BLOCK = 1 << 22  # bytes read at once
_WHOLE = 1 << 26  # files of up to this size together are hashed whole
_SAMPLES = 64  # blocks read of larger ones
_SAMPLE = 1 << 16  # bytes of such a block


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


def content_hash(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """One hash of what :func:`torchrl_td.data.cache.checksums` says of a dataset's values."""
    digest = hashlib.blake2b(digest_size=16)
    for key in sorted(entries):
        about = [key, entries[key]["dtype"], entries[key]["shape"], entries[key]["crc32"]]
        digest.update(json.dumps(about).encode())
    return digest.hexdigest()
