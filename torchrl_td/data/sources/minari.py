"""Minari datasets: every entry of every episode read from the dataset's own files, and checked."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from minari.dataset.minari_dataset import parse_dataset_id
from minari.dataset.minari_storage import MinariStorage

from torchrl_td.advice import install
from torchrl_td.data.choices import one_hot_choices
from torchrl_td.data.keys import Key
from torchrl_td.data.mazes.maze2d import ensure_maze2d
from torchrl_td.data.mazes.once import make_once
from torchrl_td.data.mazes.pointmaze import POINTMAZE_TASKS, ensure_pointmaze
from torchrl_td.data.mazes.record import dataset_path
from torchrl_td.data.source import CHUNK_STEPS, Source, Steps
from torchrl_td.data.sources.download import download_minari
from torchrl_td.data.sources.hdf5 import check_array, find, flatten, one_line, opened
from torchrl_td.data.sources.minari_metadata import (
    AGAIN,
    dataset_metadata,
    discrete_actions,
    discrete_observations,
)
from torchrl_td.data.transitions import as_flags, join
from torchrl_td.data.validation import check_achieved_goal
from torchrl_td.errors import InputError

_COLUMNS = ("actions", "rewards", "terminations", "truncations")  # one row a step
_FLAGS = ("terminations", "truncations")
_KEYS = {
    "observation": "observations",
    "next/observation": "observations",
    "action": "actions",
    "next/reward": "rewards",
}

_Spaces = tuple[tuple[int, int] | None, dict[Key, list[tuple[int, int]]]]

Episode = dict[str, np.ndarray]
"""An episode's arrays by name, as in ``observations/velocity``."""


def minari_source(
    dataset_id: str,
    observation_keys: Sequence[str | Key] | None = None,
    *,
    progress: bool = True,
) -> Source:
    """A Minari dataset as a source of steps: the local one, else downloaded.

    The PointMaze and Maze2D datasets are recorded if they are missing. HDF5 is read directly,
    Arrow and Parquet through Minari's own storage.

    Args:
        dataset_id: such as ``D4RL/door/human-v2``.
        observation_keys: entries of a Dict observation to join; None for the documented
            order.
        progress: show a progress bar where a dataset is recorded.

    Raises:
        InputError: bad id, no such dataset, no network, or a damaged one.
    """
    name = f"minari:{dataset_id}"
    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:  # a missing version is a TypeError
        raise InputError(f"{name}: no Minari id, which looks like D4RL/door/human-v2") from error
    for size in POINTMAZE_TASKS:
        if dataset_id == f"pointmaze/{size}-v0":
            ensure_pointmaze(size, progress=progress)  # type: ignore[arg-type]
        if dataset_id == f"maze2d/{size}-v0":
            ensure_maze2d(size, progress=progress)  # type: ignore[arg-type]
    path = dataset_path(dataset_id)
    make_once(dataset_id, lambda: download_minari(dataset_id, name, path))
    metadata = dataset_metadata(dataset_id)
    if metadata["total_episodes"] == 0:
        raise InputError(f"{name}: it holds no episodes; delete it and record or download it again")
    spaces = discrete_actions(metadata), discrete_observations(metadata)
    read = _read_hdf5 if metadata["data_format"] == "hdf5" else _read_arrow
    episodes = partial(read, path / "data", metadata["total_episodes"])
    if observation_keys is None:
        with contextlib.suppress(InputError):  # reading all of it tells
            first = next(episodes())
            check_achieved_goal({_path(k): v for k, v in first.items() if k not in _COLUMNS}, name)
    return Source(
        name=name,
        path=path,
        files=_files(path / "data"),
        chunks=partial(_chunks, episodes, path, observation_keys, spaces),
        steps=metadata["total_steps"],
        keys=_KEYS,
        variant={
            "observation_keys": None
            if observation_keys is None
            else [list(k) if isinstance(k, tuple) else k for k in observation_keys],
            # Named where there are any alone: cached copies of other datasets stay good.
            **({"one_hot": sorted(map("/".join, spaces[1]))} if spaces[1] else {}),
        },
    )


def _files(data: Path) -> list[Path]:
    """All files of a dataset, also those in linked folders: what is read of them may change."""
    found, seen = [], set()
    for folder, below, names in os.walk(data, followlinks=True):
        below[:] = [n for n in below if os.path.realpath(Path(folder) / n) not in seen]
        seen |= {os.path.realpath(Path(folder) / n) for n in below}
        found += [Path(folder) / n for n in names if (Path(folder) / n).is_file()]
    return sorted(found)


def _path(name: str) -> Key:
    """An entry of the observation by its path; what is no Dict is ``observation``."""
    return tuple(name.split("/")[1:]) or ("observation",)


def _read_hdf5(data: Path, total: int) -> Iterator[Episode]:
    """Every episode of an HDF5 dataset, in order, without the infos."""
    path = data / "main_data.hdf5"
    with opened(path, AGAIN) as file:
        if len(file) < total:
            raise InputError(
                f"{path}: it holds {len(file)} episodes where metadata.json says {total}; {AGAIN}"
            )
        for number in range(total):
            where = f"{path}: episode {number}"
            group = find(file, f"episode_{number}", str(path))
            if not isinstance(group, h5py.Group):
                raise InputError(f"{where} is missing; {AGAIN}")
            arrays: dict[str, Any] = {}
            for key in (*_COLUMNS, "observations"):
                entry = find(group, key, where)
                if entry is not None:
                    arrays |= {k: check_array(v, k, where) for k, v in flatten(entry, key, where)}
            _check_lengths(arrays, where)
            yield {key: value[()] for key, value in arrays.items()}


def _read_arrow(data: Path, total: int) -> Iterator[Episode]:
    """Every episode of an Arrow or Parquet dataset, in order, without the infos."""
    if sum(1 for entry in data.iterdir() if entry.is_dir()) < total:
        raise InputError(f"{data}: it holds fewer episodes than metadata.json's {total}; {AGAIN}")
    try:
        storage: Any = MinariStorage.read(data)
        for number in range(total):
            where = f"{data}: episode {number}"
            (about,) = storage.get_episode_metadata([number])
            (episode,) = storage.get_episodes([number])
            arrays = {key: np.asarray(episode[key]) for key in _COLUMNS}
            _flatten_mapping(episode["observations"], "observations", arrays)
            for key, value in arrays.items():
                if value.dtype.kind not in "fiub":
                    raise InputError(
                        f"{where}: {key} has dtype {value.dtype}, not numbers; convert it"
                    )
            if _check_lengths(arrays, where) != about.get("total_steps"):
                raise InputError(
                    f"{where} has not the {about.get('total_steps')} steps it says; {AGAIN}"
                )
            yield arrays
    except ImportError as error:
        raise InputError(f"{data}: needs pyarrow to be read: {install('arrow')}") from error
    except InputError as error:
        raise InputError(one_line(error)) from error
    except Exception as error:  # whatever Minari and pyarrow raise of a damaged file
        raise InputError(f"{data}: cannot be read ({one_line(error)}); {AGAIN}") from error


def _flatten_mapping(value: Any, name: str, into: Episode) -> None:
    """Put the leaves of nested mappings into a dict by their path."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            _flatten_mapping(entry, f"{name}/{key}", into)
    else:
        into[name] = np.asarray(value)


def _check_lengths(arrays: Mapping[str, Any], where: str) -> int:
    """Steps of one episode, from arrays by name that are checked against each other.

    Raises:
        InputError: an array is missing, too short or too long.
    """
    for key in _COLUMNS:
        if key in arrays:
            continue
        if any(name.startswith(f"{key}/") for name in arrays):
            raise InputError(
                f"{where}: {key} have several entries, and plans are made for one vector of "
                f"numbers, or one choice (Discrete); record them joined"
            )
        raise InputError(f"{where} has no {key!r}; {AGAIN}")
    if not any(key.startswith("observations") for key in arrays):
        raise InputError(f"{where} has no 'observations'; {AGAIN}")
    length = len(arrays["actions"])
    if length == 0:
        raise InputError(f"{where} has no steps; remove it from the dataset")
    for key, value in arrays.items():
        want = length if key in _COLUMNS else length + 1
        if len(value) != want:
            raise InputError(
                f"{where}: {key} has {len(value)} rows where {length} actions need {want}; "
                "remove the episode or get the dataset again"
            )
    return length


def _chunks(
    episodes: Callable[[], Iterator[Episode]],
    path: Path,
    observation_keys: Sequence[str | Key] | None,
    spaces: _Spaces,
) -> Iterator[Steps]:
    """The dataset's steps, whole episodes at once, each of the same entries and widths."""
    waiting: list[Episode] = []
    steps = 0
    shapes: dict[str, tuple[int, ...]] = {}
    for number, arrays in enumerate(episodes()):
        have = {key: value.shape[1:] for key, value in arrays.items()}
        shapes = shapes or have
        for key in sorted(shapes.keys() | have.keys()):
            if have.get(key) != shapes.get(key):
                has = f"shape {list(have[key])} a step" if key in have else "no such entry"
                first = f"shape {list(shapes[key])}" if key in shapes else "none"
                raise InputError(
                    f"{path}: {key} has {has} in episode {number} and {first} in episode 0; remove "
                    "the episode or split the dataset"
                )
        waiting.append(arrays)
        steps += len(arrays["actions"])
        if steps >= CHUNK_STEPS:
            yield _joined(waiting, path, observation_keys, spaces)
            waiting, steps = [], 0
    if waiting:
        yield _joined(waiting, path, observation_keys, spaces)


def _joined(
    episodes: Sequence[Episode],
    path: Path,
    observation_keys: Sequence[str | Key] | None,
    spaces: _Spaces,
) -> Steps:
    """The steps of some episodes."""
    columns = {key: np.concatenate([e[key] for e in episodes]) for key in _COLUMNS}
    names = [key for key in episodes[0] if key not in _COLUMNS]
    now, following = (
        {_path(key): np.concatenate([e[key][rows] for e in episodes]) for key in names}
        for rows in (slice(None, -1), slice(1, None))
    )
    choices, counted = spaces
    if choices is not None:
        first, count = choices
        columns["actions"] = one_hot_choices(
            columns["actions"] - first, str(path), "actions", count
        )
    for key, numbers in counted.items():  # as TorchRL's environments give them
        for entries in (now, following) if key in now else ():
            entries[key] = _ones(entries[key], numbers, str(path), "/".join(("observations", *key)))
    lengths = torch.tensor([len(e["actions"]) for e in episodes])
    ends = torch.zeros(int(lengths.sum()), dtype=torch.bool)
    ends[lengths.cumsum(0) - 1] = True
    terminated, truncated = (as_flags(columns[key], str(path), key) for key in _FLAGS)
    return Steps(
        observation=join(now, observation_keys, str(path), "observations"),
        action=columns["actions"],
        next_observation=join(following, observation_keys, str(path), "observations"),
        reward=columns["rewards"],
        terminated=terminated,
        truncated=truncated,
        ends=ends | terminated | truncated,
    )


def _ones(entry: np.ndarray, numbers: Sequence[tuple[int, int]], name: str, key: str) -> np.ndarray:
    """Choices [N, ...], of each number its first and how many there are, as ones among zeros."""
    columns = [entry] if len(numbers) == 1 else entry.reshape(len(entry), -1).T
    if len(columns) != len(numbers):
        raise InputError(f"{name}: {key} has {len(columns)} numbers, not {len(numbers)}; {AGAIN}")
    ones = [
        np.asarray(one_hot_choices(column - first, name, key, count), np.float32)
        for column, (first, count) in zip(columns, numbers, strict=True)
    ]
    return np.concatenate(ones, -1)
