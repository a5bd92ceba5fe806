"""The files of a local Minari dataset: opened, and checked before anything is read of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
from minari.dataset.minari_storage import MinariStorage

from torchrl_td.errors import TDError

COLUMNS = ("actions", "rewards", "terminations", "truncations")
"""What every episode has beside its observations, one row a step."""


def open_dataset(dataset_id: str, path: Path) -> Any:
    """The dataset, its metadata checked first.

    Raises:
        TDError: it is not readable, or another one.
    """
    again = "delete it and get it again"
    try:
        metadata = MinariStorage.read_raw_metadata(path / "data")
    except (OSError, ValueError) as error:
        raise TDError(
            f"{path}: not a readable Minari dataset ({one_line(error)}); {again}"
        ) from error
    for key in ("observation_space", "action_space", "data_format"):
        # Minari would build the environment that the file names, which runs what it names.
        if key not in metadata:
            raise TDError(f"{path}: metadata.json has no {key!r}, as of an old Minari; {again}")
    if metadata.get("dataset_id", dataset_id) != dataset_id:
        raise TDError(
            f"{path}: it holds {metadata['dataset_id']}, not {dataset_id}; "
            "move it to the folder of its own id"
        )
    try:
        return minari.load_dataset(dataset_id)
    except ImportError as error:
        raise TDError(f"{path}: {one_line(error)}") from error
    except Exception as error:
        raise TDError(
            f"{path}: not a readable Minari dataset ({one_line(error)}); {again}"
        ) from error


def hdf5_lengths(file_path: Path, total: int) -> np.ndarray:
    """Steps of each episode [episodes], every entry's type and length checked.

    Raises:
        TDError: naming the file, the episode, the key and the remedy.
    """
    lengths = np.zeros(total, dtype=np.int64)
    try:
        with h5py.File(file_path, "r") as file:
            for number in range(total):
                if f"episode_{number}" not in file:
                    raise TDError(
                        f"{file_path}: episode {number} of {total} is missing; delete the "
                        "dataset and get it again"
                    )
                entries = _arrays(file[f"episode_{number}"])
                lengths[number] = checked_length(entries, f"{file_path}: episode {number}")
    except (OSError, RuntimeError) as error:
        raise TDError(
            f"{file_path}: not a readable HDF5 file ({one_line(error)}); it is truncated or of "
            "another kind, delete the dataset and get it again"
        ) from error
    return lengths


def _arrays(group: h5py.Group) -> dict[str, h5py.Dataset]:
    """The arrays of an episode by their names, without the infos."""
    found = {key: group[key] for key in COLUMNS if key in group}
    observations = group.get("observations")
    if isinstance(observations, h5py.Group):
        observations.visititems(
            lambda name, entry: (
                found.update({f"observations/{name}": entry})
                if isinstance(entry, h5py.Dataset)
                else None
            )
        )
    elif observations is not None:
        found["observations"] = observations
    return found


def checked_length(entries: dict[str, Any], where: str) -> int:
    """Steps of one episode, from arrays by name that are checked against each other."""
    for key in COLUMNS:
        if key not in entries:
            raise TDError(f"{where} has no {key!r}; delete the dataset and get it again")
        if not hasattr(entries[key], "dtype"):
            raise TDError(f"{where}: {key} is no array; one continuous action is planned for")
    if not any(key.startswith("observations") for key in entries):
        raise TDError(f"{where} has no 'observations'; delete the dataset and get it again")
    length = len(entries["actions"])
    if length == 0:
        raise TDError(f"{where} has no steps; remove it from the dataset")
    for key, value in entries.items():
        if value.dtype.kind not in "fiub":
            raise TDError(f"{where}: {key} has dtype {value.dtype}, not numbers; convert it")
        want = length if key in COLUMNS else length + 1
        if len(value) != want:
            raise TDError(
                f"{where}: {key} has {len(value)} rows where {length} actions need {want}; "
                "remove the episode or get the dataset again"
            )
    return length


def arrow_lengths(dataset: Any, path: Path) -> np.ndarray:
    """Steps of each episode [episodes] by the dataset's own account."""
    try:
        metas = dataset.storage.get_episode_metadata(range(int(dataset.total_episodes)))
        return np.array([int(meta["total_steps"]) for meta in metas], dtype=np.int64)
    except (OSError, KeyError, ValueError) as error:
        raise TDError(
            f"{path}: not a readable Minari dataset ({one_line(error)}); delete it and get it again"
        ) from error


def one_line(error: BaseException) -> str:
    """An exception's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__
