"""A memory-mapped copy of what was loaded, so that the second time takes no time.

A cache is a folder with one raw file per key and ``meta.json``, which holds the
source's identity (size, time and hash of its files), the format's version and a
checksum of each file. What does not agree is built anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl import torchrl_logger
from tqdm import tqdm

from torchrl_td.data.source import Counts, Source, files_identity
from torchrl_td.data.transitions import finish
from torchrl_td.data.validation import check_not_zero, warn_once
from torchrl_td.errors import InputError

CACHE_VERSION = 2
"""Of the files' layout and meaning; a cache of another version is built anew."""

_META = "meta.json"
_BLOCK = 1 << 22  # bytes read at once
_STALE_SECONDS = 6 * 3600.0
_DTYPES = {"float32": torch.float32, "bool": torch.bool, "int64": torch.int64}


def cache_root() -> Path:
    """Where caches are kept.

    ``$TORCHRL_TD_CACHE``; else a hidden folder in ``$MINARI_DATASETS_PATH``, where that
    says which disk is for data; else ``~/.cache/torchrl_td``.
    """
    if os.environ.get("TORCHRL_TD_CACHE"):
        return Path(os.environ["TORCHRL_TD_CACHE"])
    if os.environ.get("MINARI_DATASETS_PATH"):
        return Path(os.environ["MINARI_DATASETS_PATH"]) / ".torchrl_td"
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "torchrl_td"
    return Path(os.path.expanduser("~")) / ".cache" / "torchrl_td"  # "~" itself without a home


def load_through_cache(
    source: Source, *, use_cache: bool = True, finite: bool = True, progress: bool = True
) -> tuple[TensorDict, dict[str, Any]]:
    """The source's episodes, memory-mapped; read once, then opened from the cache.

    Changes made to the result stay in memory and never reach the cache.

    Args:
        source: where steps come from.
        use_cache: False reads it again and leaves nothing behind.
        finite: False lets NaN and Inf pass; such data is not cached.
        progress: show a progress bar where reading takes long, on a terminal.

    Returns:
        The episodes, and for each key the type, shape and checksum of its values.

    Raises:
        InputError: the source's data cannot be used, or there is no room for it.
    """
    try:
        identity = {"files": files_identity(source.files, source.path), "variant": source.variant}
    except OSError as error:
        raise InputError(f"{source.name}: cannot be read ({error}); get it again") from error
    identity = json.loads(json.dumps(identity))  # as it is read back
    folder = cache_root() / _folder_name(source)
    if use_cache and finite:
        found = open_cache(folder, identity)
        if found is not None:
            return found
        try:
            with _staging(folder.parent) as staging:
                build_cache(staging, source, identity, progress=progress)
                return _publish(staging, folder)
        except OSError as error:
            torchrl_logger.warning(
                f"{folder}: the cache cannot be written ({error}); set TORCHRL_TD_CACHE to a "
                "folder with room to load faster the next time"
            )
    try:
        with tempfile.TemporaryDirectory(prefix="torchrl_td-") as scratch:
            build_cache(Path(scratch), source, identity, finite=finite, progress=progress)
            return _mapped(Path(scratch))  # the mapping outlives its files
    except OSError as error:
        raise InputError(
            f"{source.name}: no room for a memory-mapped copy ({error}); set TMPDIR or "
            "TORCHRL_TD_CACHE to a folder with room"
        ) from error


def _folder_name(source: Source) -> str:
    """A readable name, made unique by the full path and what changes the reading."""
    key = json.dumps([source.name, str(source.path), source.variant], sort_keys=True)
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", source.name).strip("-.")[-60:]
    return f"{slug}-{hashlib.blake2b(key.encode(), digest_size=6).hexdigest()}"


@contextlib.contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """A folder to build in, beside where the result goes; removed unless it was moved."""
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(".building-*"):  # by processes that were killed
        if time.time() - left.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=".building-", dir=root))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish(staging: Path, folder: Path) -> tuple[TensorDict, dict[str, Any]]:
    """Move a finished cache to its place and open it."""
    mapped = _mapped(staging)  # the mapping outlives the move
    if folder.exists():  # damaged or outdated
        old = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
        with contextlib.suppress(OSError):  # another process may be first
            folder.rename(old / "replaced")
        shutil.rmtree(old, ignore_errors=True)
    with contextlib.suppress(OSError):
        staging.rename(folder)
    return mapped


def build_cache(
    folder: Path,
    source: Source,
    identity: Mapping[str, Any],
    *,
    finite: bool = True,
    progress: bool = True,
) -> None:
    """Read all of ``source`` into raw files under ``folder``, NaN and Inf unless ``finite``.

    Raises:
        InputError: the data cannot be used.
        OSError: the files cannot be written.
    """
    counts = Counts()
    bar = tqdm(
        total=source.steps,
        desc=f"loading {source.name}",
        unit="step",
        delay=2,
        disable=None if progress else True,  # None: where there is no terminal
    )
    with Writer(folder) as writer, bar:
        for steps in source.chunks():
            part = finish(steps, source.name, counts, keys=source.keys, finite=finite)
            writer.append(part, source.name)
            bar.update(len(steps.ends))
    if counts.rows == 0:
        raise InputError(f"{source.name}: it holds no steps; record or download it again")
    warning = counts.warning(source.name)
    check_not_zero(writer.seen, source.name)
    count = counts.rows - counts.unfinished_rows
    meta = {
        "version": CACHE_VERSION,
        "identity": identity,
        "count": count,
        "files": writer.files,
        "warning": warning,
    }
    (folder / _META).write_text(json.dumps({**meta, "seal": _seal(meta)}))


def open_cache(
    folder: Path, identity: Mapping[str, Any]
) -> tuple[TensorDict, dict[str, Any]] | None:
    """The cache in ``folder``, or None if there is none that is whole and of that identity."""
    try:
        meta = json.loads((folder / _META).read_text())
        seal = meta.pop("seal")
        if meta["version"] != CACHE_VERSION or meta["identity"] != identity:
            return None
        if seal != _seal(meta):
            torchrl_logger.warning(f"{folder / _META}: damaged cache, built anew")
            return None
        for about in meta["files"].values():
            path = folder / Path(about["file"]).name
            if _crc32(path) != about["crc32"]:
                torchrl_logger.warning(f"{path}: damaged cache, built anew")
                return None
        return _mapped(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _seal(meta: Mapping[str, Any]) -> str:
    """A hash of the metadata itself, which a damage to it breaks."""
    return hashlib.blake2b(json.dumps(meta, sort_keys=True).encode(), digest_size=16).hexdigest()


def _crc32(path: Path) -> int:
    """Checksum of a file, read in blocks."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc


def _mapped(folder: Path) -> tuple[TensorDict, dict[str, Any]]:
    """The files of a cache as one tensordict; writing to it copies the page in memory."""
    meta = json.loads((folder / _META).read_text())
    count = int(meta["count"])
    data = TensorDict({}, batch_size=[count])
    for key, about in meta["files"].items():
        path, dtype = folder / Path(about["file"]).name, _DTYPES[about["dtype"]]
        shape = (count, *(int(n) for n in about["shape"]))
        if path.stat().st_size != int(np.prod(shape)) * dtype.itemsize:
            raise ValueError(f"{path}: not the size that its cache says")
        array = np.memmap(path, dtype=about["dtype"], mode="c", shape=shape)
        data[tuple(key.split("/"))] = torch.from_numpy(array)
    if meta["warning"] is not None:
        warn_once(str(meta["warning"]))
    return data, meta["files"]


class Writer:
    """Appends tensordicts to one raw file per key, with checksums; keeps nothing in memory."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._open: dict[str, BinaryIO] = {}
        self.files: dict[str, dict[str, Any]] = {}
        self.seen: dict[str, bool] = {}

    def append(self, part: TensorDict, name: str) -> None:
        if not len(part):
            return
        for key, about in checksums(part).items():
            if key not in self.files:
                about["file"] = key.replace("/", ".") + ".bin"
                self._open[key] = (self._folder / about["file"]).open("wb")
                self.files[key] = {**about, "crc32": 0}
                self.seen[key] = False
            so_far = self.files[key]
            if about["shape"] != so_far["shape"]:
                raise InputError(
                    f"{name}: {key} has {about['shape']} numbers a step in episode "
                    f"{int(part['episode'][0])} and {so_far['shape']} before; split the dataset"
                )
            value = part.get(tuple(key.split("/")))
            data = _bytes(value)
            self._open[key].write(data)
            so_far["crc32"] = zlib.crc32(data, so_far["crc32"])
            self.seen[key] = self.seen[key] or bool(value.any())

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()


def checksums(data: TensorDictBase) -> dict[str, dict[str, Any]]:
    """Type, shape of a row and checksum of each entry [N, ...], by key as in ``next/reward``."""
    found = {}
    for key in data.keys(True, True):
        value = data.get(key)
        found["/".join(key) if isinstance(key, tuple) else key] = {
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape[1:]),
            "crc32": zlib.crc32(_bytes(value)),
        }
    return found


def _bytes(value: torch.Tensor) -> memoryview:
    return value.contiguous().numpy().data.cast("B")
