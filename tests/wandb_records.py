"""Reads what W&B wrote offline: its records are its own, in the frames of LevelDB's log."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK, _HEADER, _FRAME = 32_768, 7, 7
_LAST = (1, 4)  # types of a frame that ends a record: a whole one, and the last part of one


def read_records(path: Path) -> Iterator[Any]:
    """The records of a `.wandb` file, as W&B's own message."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), _HEADER, b""
    assert data.startswith(b":W&B")
    while at + _FRAME <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _FRAME:
            at += left
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + _FRAME : at + _FRAME + size]
        at += _FRAME + size
        if kind in _LAST:
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def items(entries: Any) -> dict[str, Any]:
    """The items of a history, summary, config or stats message, nested keys joined by a slash."""
    found = {}
    for entry in entries:
        nested = list(getattr(entry, "nested_key", ()))
        found[" ".join(nested) or entry.key] = json.loads(entry.value_json)
    return found
