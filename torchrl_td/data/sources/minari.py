"""Minari datasets, through TorchRL's own ``MinariExperienceReplay``, proved."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import torch
from minari.dataset.minari_dataset import parse_dataset_id

from torchrl_td.data.keys import Key
from torchrl_td.data.mazes.maze2d import ensure_maze2d
from torchrl_td.data.mazes.pointmaze import POINTMAZE_TASKS, ensure_pointmaze
from torchrl_td.data.mazes.record import dataset_path, staged
from torchrl_td.data.sources.download import require_network
from torchrl_td.data.sources.minari_files import (
    COLUMNS,
    hdf5_lengths,
    one_line,
    open_dataset,
    read_episodes,
    stated_lengths,
)
from torchrl_td.data.sources.minari_torchrl import load_part
from torchrl_td.data.sources.tensordict import steps_from_tensordict
from torchrl_td.data.transitions import CHUNK_STEPS, Source, Steps, join
from torchrl_td.data.validation import check_achieved_goal
from torchrl_td.errors import InputError

_PROVED = 3  # episodes of each part compared with Minari's own reading
_FEW = 1000  # episodes: beyond, TorchRL's class (6 ms an episode) takes too long
_KEYS = {
    "observation": "observations",
    "next/observation": "observations",
    "action": "actions",
    "next/reward": "rewards",
}
_REMOTES = {"hf": "https://huggingface.co", "gcp": "https://storage.googleapis.com"}


def minari_source(
    dataset_id: str,
    observation_keys: Sequence[str | Key] | None = None,
    *,
    progress: bool = True,
) -> Source:
    """A Minari dataset as a source of steps: the local one, else downloaded.

    The PointMaze and Maze2D datasets are recorded if they are missing. HDF5 is read through
    TorchRL's ``MinariExperienceReplay``, a part at a time, and compared with the file;
    directly beyond 1,000 episodes. Arrow, which that class cannot read, is read through
    Minari's own storage.

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
    if not (path / "data").exists():
        _download(dataset_id, name, path)
    dataset = open_dataset(dataset_id, path)
    if int(dataset.total_episodes) == 0:
        raise InputError(f"{name}: it holds no episodes; delete it and record or download it again")
    if observation_keys is None:
        check_achieved_goal(_first_observations(dataset, path), name)
    return Source(
        name=name,
        path=path,
        files=sorted(file for file in (path / "data").rglob("*") if file.is_file()),
        chunks=partial(_chunks, dataset, path, observation_keys),
        steps=int(dataset.total_steps),
        keys=_KEYS,
        variant={
            "observation_keys": None
            if observation_keys is None
            else [list(k) if isinstance(k, tuple) else k for k in observation_keys]
        },
    )


def _first_observations(dataset: Any, path: Path) -> dict[Key, np.ndarray]:
    """The entries of the first episode's observations, by path; none where it is no Dict."""
    if not isinstance(dataset.observation_space, gymnasium.spaces.Dict):
        return {}
    try:
        entries = next(read_episodes(dataset, path, [0]))
    except Exception:  # of a damaged file: reading all of it tells
        return {}
    return {tuple(k.split("/")[1:]): v for k, v in entries.items() if k not in COLUMNS}


def _download(dataset_id: str, name: str, path: Path) -> None:
    """Fetch a dataset from Minari's remote; it appears whole or not at all."""
    others = [o for o in _local_ids() if o.rpartition("-v")[0] == dataset_id.rpartition("-v")[0]]
    remedy = f"run 'minari download {dataset_id}' where there is a network and copy it to {path}"
    if others:
        remedy = f"use {', '.join(others)}, which is here, or {remedy}"
    remote = os.environ.get("MINARI_REMOTE", "hf://farama-minari").partition("://")[0]
    url = os.environ.get("HF_ENDPOINT") or _REMOTES["hf"] if remote == "hf" else _REMOTES[remote]
    require_network(url, f"{name}: not found at {path}, and", remedy)
    try:
        with staged(dataset_id), contextlib.redirect_stdout(io.StringIO()):
            minari.download_dataset(dataset_id)
    except Exception as error:  # whatever the remote's library raises
        raise InputError(
            f"{name}: not found at {path}, and not downloaded ({one_line(error)}); {remedy}"
        ) from error


def _local_ids() -> list[str]:
    """The ids of all local datasets."""
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # another, damaged dataset is not this one's matter
        return list(minari.list_local_datasets())
    return []


def _chunks(
    dataset: Any, path: Path, observation_keys: Sequence[str | Key] | None
) -> Iterator[Steps]:
    """The dataset's steps, whole episodes at once."""
    total, first = int(dataset.total_episodes), 0
    through_torchrl = dataset.storage.FORMAT == "hdf5" and total <= _FEW
    if through_torchrl:
        lengths = hdf5_lengths(path / "data" / "main_data.hdf5", total)
    else:
        lengths = stated_lengths(dataset, path)  # checked as they are read
    while first < len(lengths):
        fit = int(np.searchsorted(np.cumsum(lengths[first:]), CHUNK_STEPS, side="right"))
        numbers = range(first, first + max(fit, 1))
        first = numbers.stop
        try:
            if not through_torchrl:
                yield _read(dataset, numbers, lengths, observation_keys, path)
                continue
            with load_part(dataset.id, path / "data", numbers) as part:
                steps = steps_from_tensordict(part, str(path), observation_keys)
                _prove(steps, dataset, numbers, lengths, observation_keys, path)
                yield steps
            del part, steps
            gc.collect()  # TorchRL's class holds itself, and its mapped files, in cycles
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{path}: cannot be read ({one_line(error)}); get it again") from error


def _read(
    dataset: Any,
    numbers: Sequence[int],
    lengths: np.ndarray,
    observation_keys: Sequence[str | Key] | None,
    path: Path,
) -> Steps:
    """The steps of some episodes as their files hold them."""
    now: dict[Key, list[Any]] = {}
    following: dict[Key, list[Any]] = {}
    columns: dict[str, list[np.ndarray]] = {key: [] for key in COLUMNS}
    for number, entries in zip(numbers, read_episodes(dataset, path, numbers), strict=True):
        if len(entries["actions"]) != lengths[number]:
            raise InputError(
                f"{path}: episode {number} has not the {lengths[number]} steps it says; "
                "get it again"
            )
        for name, value in entries.items():
            if name in columns:
                columns[name].append(value)
                continue
            key = tuple(name.split("/")[1:]) or ("observation",)
            now.setdefault(key, []).append(value[:-1])
            following.setdefault(key, []).append(value[1:])
        columns["truncations"][-1] = np.array(columns["truncations"][-1])  # was read-only
        columns["truncations"][-1][-1] |= not entries["terminations"][-1]  # the data ends
    both = [
        join(
            {key: np.concatenate(values) for key, values in entries.items()},
            observation_keys,
            str(path),
            "observations",
        )
        for entries in (now, following)
    ]
    action, reward, terminated, truncated = (np.concatenate(columns[key]) for key in COLUMNS)
    flags = [torch.from_numpy(value.astype(bool)) for value in (terminated, truncated)]
    return Steps(both[0], action, both[1], reward, *flags)


def _prove(
    steps: Steps,
    dataset: Any,
    numbers: range,
    lengths: np.ndarray,
    observation_keys: Sequence[str | Key] | None,
    path: Path,
) -> None:
    """Compare a few episodes of what was loaded with their files.

    Raises:
        InputError: a length or a number differs.
    """
    starts = np.concatenate([[0], np.cumsum(lengths[numbers.start : numbers.stop])])
    wrong = "this version of TorchRL reads Minari wrongly, install another"
    if len(steps.terminated) != starts[-1]:
        raise InputError(
            f"{path}: {len(steps.terminated)} steps were read of {starts[-1]}; {wrong}"
        )
    chosen = np.unique(np.linspace(0, len(numbers) - 1, _PROVED).round().astype(int))
    for at in chosen.tolist():
        number = numbers[at]
        wanted = _read(dataset, [number], lengths, observation_keys, path)
        rows = slice(int(starts[at]), int(starts[at + 1]))
        for field, value, want in zip(Steps._fields, steps, wanted, strict=True):
            read, want = np.asarray(value[rows]), np.asarray(want)
            if not np.array_equal(
                read.reshape(want.shape), want, equal_nan=want.dtype.kind == "f"
            ):  # NaN is refused later, by name
                raise InputError(
                    f"{path}: {field} of episode {number} is not what the file holds; {wrong}"
                )
