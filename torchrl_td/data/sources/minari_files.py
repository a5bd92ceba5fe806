"""The files of a local Minari dataset: opened, and checked before anything is read of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
from minari.dataset.minari_storage import MinariStorage

from torchrl_td.errors import InputError

COLUMNS = ("actions", "rewards", "terminations", "truncations")
"""What every episode has beside its observations, one row a step."""


def open_dataset(dataset_id: str, path: Path) -> Any:
    """The dataset, its metadata checked first.

    Raises:
        InputError: it is not readable, or another one.
    """
    again = "delete it and get it again"
    try:
        metadata = MinariStorage.read_raw_metadata(path / "data")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable Minari dataset ({one_line(error)}); {again}"
        ) from error
    for key in ("observation_space", "action_space", "data_format"):
        # Minari would build the environment that the file names, which runs what it names.
        if key not in metadata:
            raise InputError(f"{path}: metadata.json has no {key!r}, as of an old Minari; {again}")
    if metadata.get("dataset_id", dataset_id) != dataset_id:
        raise InputError(
            f"{path}: it holds {metadata['dataset_id']}, not {dataset_id}; "
            "move it to the folder of its own id"
        )
    try:
        return minari.load_dataset(dataset_id)
    except ImportError as error:
        raise InputError(f"{path}: {one_line(error)}") from error
    except Exception as error:
        raise InputError(
            f"{path}: not a readable Minari dataset ({one_line(error)}); {again}"
        ) from error


def hdf5_lengths(file_path: Path, total: int) -> np.ndarray:
    """Steps of each episode [episodes], every entry's type and length checked.

    Raises:
        InputError: naming the file, the episode, the key and the remedy.
    """
    lengths = np.zeros(total, dtype=np.int64)
    with _opened_hdf5(file_path) as file:
        for number in range(total):
            entries = _entries(file, number)
            lengths[number] = checked_length(entries, f"{file_path}: episode {number}")
    return lengths


def stated_lengths(dataset: Any, path: Path) -> np.ndarray:
    """Steps of each episode [episodes] by the dataset's own account.

    Raises:
        InputError: the dataset does not tell, or not readably.
    """
    try:
        metas = dataset.storage.get_episode_metadata(range(int(dataset.total_episodes)))
        return np.array([int(meta["total_steps"]) for meta in metas], dtype=np.int64)
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable Minari dataset ({one_line(error)}); delete it and get it again"
        ) from error


def read_episodes(
    dataset: Any, path: Path, numbers: Sequence[int]
) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of some episodes by name, as in ``observations/velocity``, without infos.

    Raises:
        InputError: naming the file, the episode, the key and the remedy.
    """
    if dataset.storage.FORMAT == "hdf5":
        with _opened_hdf5(path / "data" / "main_data.hdf5") as file:
            for number in numbers:
                entries = _entries(file, number)
                checked_length(entries, f"{path}: episode {number}")
                yield {key: value[()] for key, value in entries.items()}
        return
    for number, episode in zip(numbers, dataset.storage.get_episodes(numbers), strict=True):
        entries = {key: episode[key] for key in COLUMNS}
        _flatten(episode["observations"], "observations", entries)
        checked_length(entries, f"{path}: episode {number}")
        yield entries


@contextlib.contextmanager
def _opened_hdf5(path: Path) -> Iterator[h5py.File]:
    """The open file; what HDF5 cannot read becomes one line."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{path}: not a readable HDF5 file ({one_line(error)}); it is truncated or of "
            "another kind, delete the dataset and get it again"
        ) from error


def _entries(file: h5py.File, number: int) -> dict[str, Any]:
    """The arrays of an episode by name, not read yet, without the infos."""
    if f"episode_{number}" not in file:
        raise InputError(
            f"{file.filename}: episode {number} is missing; delete the dataset and get it again"
        )
    group = file[f"episode_{number}"]
    found = {key: group[key] for key in COLUMNS if key in group}
    if "observations" in group:
        _flatten(group["observations"], "observations", found)
    return found


def _flatten(value: Any, name: str, into: dict[str, Any]) -> None:
    """Put the leaves of nested mappings or HDF5 groups into a dict by their path."""
    if isinstance(value, Mapping):  # as h5py's groups are
        for key, entry in value.items():
            _flatten(entry, f"{name}/{key}", into)
    else:
        into[name] = value


def checked_length(entries: dict[str, Any], where: str) -> int:
    """Steps of one episode, from arrays by name that are checked against each other.

    Raises:
        InputError: an array is missing, holds no numbers or is too short or long.
    """
    for key in COLUMNS:
        if key not in entries:
            raise InputError(f"{where} has no {key!r}; delete the dataset and get it again")
        if not hasattr(entries[key], "dtype"):
            raise InputError(f"{where}: {key} is no array; one continuous action is planned for")
    if not any(key.startswith("observations") for key in entries):
        raise InputError(f"{where} has no 'observations'; delete the dataset and get it again")
    length = len(entries["actions"])
    if length == 0:
        raise InputError(f"{where} has no steps; remove it from the dataset")
    for key, value in entries.items():
        if value.dtype.kind not in "fiub":
            raise InputError(f"{where}: {key} has dtype {value.dtype}, not numbers; convert it")
        want = length if key in COLUMNS else length + 1
        if len(value) != want:
            raise InputError(
                f"{where}: {key} has {len(value)} rows where {length} actions need {want}; "
                "remove the episode or get the dataset again"
            )
    return length


def one_line(error: BaseException) -> str:
    """An exception's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__
