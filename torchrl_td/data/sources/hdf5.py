"""HDF5 files of others: opened, their links followed, their arrays checked before they are read.

A file may say that its numbers stand in another file, or that there are more of them than it could
hold. Neither is believed: whoever made the file would choose what is read of this machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from torchrl_td.errors import InputError

_HOPS = 16  # links after one another, and groups within one another
_SMALL = 1 << 26  # bytes: an array of up to this size may be claimed for nothing
_COMPRESSION = 1100  # times: deflate, which h5py and Minari use, reaches 1032


def one_line(error: BaseException) -> str:
    """An exception's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def opened(path: Path, remedy: str = "get it again") -> Iterator[h5py.File]:
    """The open file; what HDF5 cannot read becomes one line.

    Raises:
        InputError: it is no HDF5 file, or damaged where it is read.
    """
    try:
        if not path.is_file():
            raise OSError("there is no such file" if not path.exists() else "it is no file")
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError) as error:
        raise InputError(
            f"{path}: not a readable HDF5 file ({one_line(error)}); it is truncated or of another "
            f"kind, {remedy}"
        ) from error


def find(group: h5py.Group, name: str, where: str, hops: int = 0) -> Any:
    """The entry of that name, its links followed within the file alone; None if there is none.

    Args:
        group: where the name is counted from.
        name: a path, as a link may hold it.
        where: file and place, for messages.
        hops: links followed so far.

    Raises:
        InputError: it leads to another file, nowhere, or in a circle.
    """
    entry: Any = group.file if name.startswith("/") else group
    for part in name.split("/"):
        if part in ("", "."):
            continue
        link = entry.get(part, getlink=True) if isinstance(entry, h5py.Group) else None
        if link is None:
            return None
        if isinstance(link, h5py.SoftLink):
            found = find(entry, link.path, where, hops + 1) if hops < _HOPS else None
            if found is None:
                raise InputError(
                    f"{where}: {part} is a link that leads nowhere; put the numbers in its place"
                )
            entry = found
        elif isinstance(link, h5py.HardLink):
            entry = entry[part]
        else:
            raise InputError(
                f"{where}: {part} is a link to another file, which is not followed; copy the "
                "numbers into this one"
            )
    return entry


def flatten(entry: Any, name: str, where: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The arrays of nested groups by their path.

    Raises:
        InputError: a link leaves the file, or the groups are nested without end.
    """
    if not isinstance(entry, h5py.Group):
        yield name, entry
        return
    if depth > _HOPS:
        raise InputError(f"{where}: {name} is nested without end; mend the file")
    for key in entry:
        yield from flatten(find(entry, key, where), f"{name}/{key}", where, depth + 1)


def check_array(entry: Any, name: str, where: str) -> h5py.Dataset:
    """An array of numbers, one row a step, that the file itself holds.

    Raises:
        InputError: it is anything else.
    """
    if not isinstance(entry, h5py.Dataset) or not entry.shape:  # None: there is no number in it
        raise InputError(f"{where}: {name} is not an array with one row a step")
    if entry.dtype.kind not in "fiub":
        raise InputError(f"{where}: {name} has dtype {entry.dtype}, not numbers; convert it")
    if 0 in entry.shape[1:]:
        raise InputError(f"{where}: {name} holds no number a step; record or convert it again")
    about = entry.id.get_create_plist()
    if about.get_external_count() or about.get_layout() == h5py.h5d.VIRTUAL:
        raise InputError(
            f"{where}: {name} has its numbers in another file, which is not read; copy them into "
            "this one"
        )
    claimed, stored = entry.nbytes, entry.id.get_storage_size()
    if claimed > max(stored * (_COMPRESSION if about.get_nfilters() else 1), _SMALL):
        raise InputError(
            f"{where}: {name} claims {claimed:.3g} bytes and the file holds {stored} of them; it "
            "was not written whole, get it again"
        )
    return entry
