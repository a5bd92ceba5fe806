"""The files of a checkpoint: exactly those that we write, read so that nothing in them can run.

TorchRL's adapters choose the format of a component by the files they find, and some formats are
pickles. A checkpoint may come from a stranger, so it is read here by fixed names alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FILES = {
    "manifest": "manifest.json",
    "about": "components/0000-about/value.json",
    "planner": "components/0001-planner/state.pt",
    "training": "components/0002-training/state.pt",
    "verify": "components/0003-verify/sha256.json",
}
_LARGEST_JSON = 1 << 20  # bytes; settings and action bounds take some thousands
_MOST_ENTRIES = 1_000_000  # of a state dict, random states included: some thousands are usual


def check_files(folder: Path) -> None:
    """Checks that a checkpoint holds every file of one and no other.

    Raises:
        ValueError: naming the first that is missing, of another kind or not a checkpoint's.
    """
    allowed = {str(Path(name)) for name in FILES.values()}
    folders = {str(parent) for name in allowed for parent in Path(name).parents}
    found: set[str] = set()
    for root, names, files in os.walk(folder):
        for name in [*names, *files]:
            path = Path(root, name)
            relative, mode = str(path.relative_to(folder)), path.lstat().st_mode
            if relative in allowed and stat.S_ISREG(mode):
                found.add(relative)
            elif relative not in folders or not stat.S_ISDIR(mode):
                raise ValueError(f"{relative} is no file of a checkpoint")
    for name in sorted(allowed - found):
        raise ValueError(f"{name} is missing")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of the components that are checked, by their names under these."""
    found = {}
    for component in ("about", "planner", "training"):
        with (folder / FILES[component]).open("rb") as file:
            name = FILES[component].removeprefix("components/")
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: it is none, or larger than any that we write.
    """
    if path.stat().st_size > _LARGEST_JSON:
        raise ValueError(f"{path.name} is larger than {_LARGEST_JSON >> 20} MiB")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None


def read_tensors(path: Path, device: torch.device | str) -> Mapping[str, Any]:
    """The state dict in a file of ``torch.save``: numbers, strings, containers and plain tensors.

    Raises:
        ValueError: it is none, or would take more memory than the file.
        Exception: of many kinds, from ``torch.load(weights_only=True)``.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    claimed = sum(entry.file_size for entry in entries)
    if claimed > path.stat().st_size or any(entry.compress_type for entry in entries):
        raise ValueError(f"{path.name} claims more bytes than it holds")
    state = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(state, Mapping):
        raise ValueError(f"{path.name} holds no state dict")
    _check_entries(state, torch.device(device), path.name)
    return state


def _check_entries(state: Any, device: torch.device, name: str) -> None:
    """Entries are counted one by one, for containers that hold one another may be endless."""
    left, count = [state], 0
    while left:
        value, count = left.pop(), count + 1
        if count > _MOST_ENTRIES:
            raise ValueError(f"{name} holds more than {_MOST_ENTRIES} entries")
        if isinstance(value, Mapping):
            left += value.values()
        elif isinstance(value, (list, tuple, set)):
            left += value
        elif isinstance(value, Tensor) and not _is_plain(value, device):
            raise ValueError(f"{name} holds a tensor that is not a plain one")


def _is_plain(value: Tensor, device: torch.device) -> bool:
    """Whether its numbers lie in memory, each of them once."""
    return (
        type(value) is Tensor
        and value.layout == torch.strided
        and value.device.type == device.type
        and not value.is_quantized
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )
