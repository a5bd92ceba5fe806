"""A Minari dataset's metadata, checked before any of it is believed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from minari.dataset.minari_storage import MinariStorage

from torchrl_td.data.keys import Key
from torchrl_td.data.mazes.record import dataset_path
from torchrl_td.data.sources.hdf5 import one_line
from torchrl_td.errors import InputError

AGAIN = "delete the dataset and get it again"
"""The remedy for a damaged one."""

_JPEG = 32  # pixels a side from which on Minari stores images as JPEG
_LARGEST_SPACE = 10**7  # numbers of an observation or action
_LARGEST_FILE = 1 << 24  # bytes: the bounds of 300,000 numbers and more


def dataset_metadata(dataset_id: str) -> dict[str, Any]:
    """What a local dataset says of itself, checked; nothing that it names is built or run.

    Raises:
        InputError: it is not readable, or another dataset.
    """
    path = dataset_path(dataset_id)
    file = path / "data" / "metadata.json"
    try:
        if not file.is_file():  # a pipe would be waited for
            raise ValueError("it has no metadata.json")
        if file.stat().st_size > _LARGEST_FILE:
            raise ValueError(f"metadata.json is larger than {_LARGEST_FILE >> 20} MiB")
        metadata = MinariStorage.read_raw_metadata(path / "data")
        if not isinstance(metadata, dict):
            raise ValueError("metadata.json is no mapping")
        for key in ("observation_space", "action_space", "data_format"):
            # Minari would build the environment that the file names, which runs what it names.
            if key not in metadata:
                raise InputError(
                    f"{path}: metadata.json has no {key!r}, as of an old Minari; {AGAIN}"
                )
        for key in ("observation_space", "action_space"):
            space = json.loads(metadata[key])
            _check_space(space, key)
            if _holds_image(space):
                raise InputError(
                    f"{path}: {key} is an image, or holds one, stored as JPEG: plans are made of "
                    f"vectors, and there is no encoder that makes one of it; record the dataset "
                    f"without it"
                )
        for key in ("total_episodes", "total_steps"):
            if type(metadata.get(key)) is not int or metadata[key] < 0:
                raise ValueError(f"{key} is {metadata.get(key)!r}, no count")
        if metadata["data_format"] not in ("hdf5", "arrow", "parquet"):
            raise ValueError(f"data_format is {metadata['data_format']!r}")
    except InputError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{path}: not a readable Minari dataset ({one_line(error)}); {AGAIN}"
        ) from error
    if metadata.get("dataset_id", dataset_id) != dataset_id:
        raise InputError(
            f"{path}: it holds {metadata['dataset_id']}, not {dataset_id}; "
            "move it to the folder of its own id"
        )
    return metadata


def discrete_actions(metadata: Mapping[str, Any]) -> tuple[int, int] | None:
    """The first choice and how many there are, of a dataset whose actions are choices."""
    space = json.loads(metadata["action_space"])
    if not isinstance(space, Mapping) or space.get("type") != "Discrete":
        return None
    return _choices(space, "action_space")[0]


def discrete_observations(metadata: Mapping[str, Any]) -> dict[Key, list[tuple[int, int]]]:
    """The same of the observation's entries that are choices, of each of their numbers, by path.

    >>> space = '{"type": "Dict", "subspaces": {"tile": {"type": "Discrete", "n": 16}}}'
    >>> discrete_observations({"observation_space": space})
    {('tile',): [(0, 16)]}
    """
    found: dict[Key, list[tuple[int, int]]] = {}
    left: list[tuple[Key, Any]] = [((), json.loads(metadata["observation_space"]))]
    while left:
        path, space = left.pop()
        if choices := _choices(space, "observation_space"):
            found[path or ("observation",)] = choices
        elif isinstance(space, Mapping) and isinstance(space.get("subspaces"), Mapping):
            left += [((*path, name), part) for name, part in space["subspaces"].items()]
    return found


def _choices(space: Any, name: str) -> list[tuple[int, int]]:
    """The first and how many there are of each number of a Discrete or MultiDiscrete space."""
    kind = space.get("type") if isinstance(space, Mapping) else None
    if kind not in ("Discrete", "MultiDiscrete"):
        return []
    counts = np.ravel(np.array(space.get("n" if kind == "Discrete" else "nvec"), object)).tolist()
    start = space.get("start", 0)
    first = np.ravel(np.array([0] * len(counts) if start in (0, None) else start, object)).tolist()
    numbers = [*first, *counts]
    fits = len(first) == len(counts) and (kind == "MultiDiscrete" or len(counts) == 1)
    if not fits or any(type(number) is not int for number in numbers):
        raise InputError(f"{name} is {space}, no {kind} of whole numbers; {AGAIN}")
    return list(zip(first, counts, strict=True))


def _check_space(space: Any, name: str) -> None:
    """Refuse a space that claims more numbers than any observation has."""
    if isinstance(space, Mapping):
        shape = space.get("shape", space.get("n", 0) if space.get("type") == "MultiBinary" else 0)
        if math.prod(np.ravel(shape).tolist()) > _LARGEST_SPACE:
            raise ValueError(f"{name} has the shape {shape}")
    for entry in space.values() if isinstance(space, Mapping) else space:
        if isinstance(entry, (Mapping, list)):
            _check_space(entry, name)


def _holds_image(space: Any) -> bool:
    """Whether Minari stores an entry of this space, or itself, as JPEG."""
    if isinstance(space, Mapping) and space.get("type") == "Box" and space.get("dtype") == "uint8":
        shape = space.get("shape", ())
        return len(np.ravel(shape)) in (2, 3) and min(shape[:2]) >= _JPEG
    parts = space.values() if isinstance(space, Mapping) else space
    return any(_holds_image(part) for part in parts if isinstance(part, (Mapping, list)))
