"""Tensors in raw files, one a key, with checksums."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, BinaryIO

import torch
from tensordict import TensorDict, TensorDictBase

from torchrl_td.errors import InputError


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
