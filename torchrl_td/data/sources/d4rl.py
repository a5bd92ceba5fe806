"""D4RL's HDF5 files: one long row of steps, cut into episodes."""

from __future__ import annotations

import difflib
import os
import re
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import torch
from torch import Tensor
from torchrl import torchrl_logger
from torchrl.data.datasets import d4rl as torchrl_d4rl

from torchrl_td.data.keys import Key
from torchrl_td.data.source import CHUNK_STEPS, Source, Steps
from torchrl_td.data.sources.download import require_network
from torchrl_td.data.sources.hdf5 import check_array, find, opened
from torchrl_td.data.transitions import as_flags, join
from torchrl_td.data.validation import warn_once
from torchrl_td.errors import InputError

_REQUIRED = ("observations", "actions", "rewards", "terminals")
_OPTIONAL = ("timeouts", "next_observations")
_TIMEOUT = 30.0  # seconds without a byte before a download is given up

T = TypeVar("T")

# D4RL's step limits, by the first words of an id's or file's name; the first that fits counts.
STEP_LIMITS: dict[str, int] = {
    "hopper": 1000,
    "halfcheetah": 1000,
    "walker2d": 1000,
    "ant-maze-u": 700,
    "ant-maze": 1000,
    "antmaze-umaze": 700,
    "antmaze": 1000,
    "ant": 1000,
    "maze2d-umaze": 300,
    "maze2d-medium": 600,
    "maze2d-large": 800,
    "pen": 100,
    "door": 200,
    "hammer": 200,
    "relocate": 200,
    "kitchen": 280,
    "mini-kitchen": 280,
}
"""Steps after which D4RL ends an episode; used where a file marks no timeouts."""


def d4rl_source(
    name: str,
    observation_keys: Sequence[str | Key] | None = None,
    max_episode_steps: int | None = None,
) -> Source:
    """A D4RL file as a source of steps.

    Episodes end at ``terminals`` and ``timeouts``, and where a file marks no timeouts
    after the step limit; the last transition of each is kept. The next observation is
    the file's ``next_observations``; without them the next row's, and for an episode's
    last step, whose next one the file does not hold, its own observation once more:
    :func:`~torchrl_td.data.transitions.successor_known` tells it, and no loss learns from that
    pair. It is one in as many steps as an episode has: 0.1 % where timeouts end episodes
    after 1000 steps, 0.7 % of door human's 6729 in 50 episodes.

    Args:
        name: D4RL's id, or the path of a file.
        observation_keys: must be None or ``["observation"]``: D4RL's are no Dicts.
        max_episode_steps: the step limit; None takes it from the name.

    Raises:
        InputError: unknown id, no network, or the file is no such HDF5 file.
    """
    path = _find(name)
    limit = max_episode_steps or step_limit(name)
    with opened(path) as file:
        arrays = _arrays(file, path)
        steps = len(arrays["actions"])
        flags = _flags(arrays, path, limit, by_name=not max_episode_steps)
        following = "next_observations" if "next_observations" in arrays else "observations"
    variant = {
        "observation_keys": None if observation_keys is None else list(map(str, observation_keys)),
        "max_episode_steps": limit,
    }
    return Source(
        name=str(path),
        path=path,
        files=[path],
        chunks=partial(_chunks, path, *flags, observation_keys),
        steps=steps,
        keys={
            "observation": "observations",
            "action": "actions",
            "next/observation": following,
            "next/reward": "rewards",
        },
        variant=variant,
    )


def step_limit(name: str) -> int | None:
    """D4RL's step limit by the name of a dataset or file, or None.

    >>> step_limit("hopper-medium-v0"), step_limit("data/door-v0_demos_clipped.hdf5")
    (1000, 200)
    """
    return first_that_fits(name, STEP_LIMITS)


def first_that_fits(name: str, known: Mapping[str, T]) -> T | None:
    """What is known by the first words of the name of a dataset or file, or None.

    >>> first_that_fits("data/pen_human.hdf5", {"pen": 1}), first_that_fits("pendulum", {"pen": 1})
    (1, None)
    """
    stem = re.split(r"[/\\]", name)[-1].lower().replace("_", "-")
    fitting = (
        value
        for start, value in known.items()
        if stem.startswith(start) and not stem[len(start) : len(start) + 1].isalpha()
    )
    return next(fitting, None)


def datasets_folder() -> Path:
    """Where D4RL keeps its files: ``$D4RL_DATASET_DIR``, else ``~/.d4rl/datasets``."""
    return Path(os.environ.get("D4RL_DATASET_DIR") or Path.home() / ".d4rl" / "datasets")


def _find(name: str) -> Path:
    """The file of an id or path, downloaded if it is D4RL's and not there.

    Raises:
        InputError: unknown, or it cannot be downloaded.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path.resolve()
    urls = torchrl_d4rl.D4RL_DATASETS
    if name not in urls:
        if path.suffix in (".hdf5", ".h5") or path.exists() or os.sep in name:
            what = "is a folder" if path.is_dir() else "there is no such file"
            raise InputError(f"d4rl:{name}: {what}; give the path of a D4RL HDF5 file")
        near = difflib.get_close_matches(name, urls, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}? Else " if near else ""
        raise InputError(f"d4rl:{name}: not one of D4RL's datasets; {hint}give a file's path")
    place = datasets_folder() / urls[name].rsplit("/", 1)[-1]
    if not place.is_file():
        _download(name, urls[name], place)
    return place.resolve()


def _download(name: str, url: str, place: Path) -> None:
    """Fetch a file with TorchRL's own means; it appears whole or not at all."""
    remedy = f"download {url} by hand and put it at {place}"
    require_network(url, f"d4rl:{name}:", remedy)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".downloading-") as folder:
            torchrl_logger.info(f"downloading {url}")
            Path(torchrl_d4rl._download_dataset_from_url(url, folder)).rename(place)
    except OSError as error:
        raise InputError(f"d4rl:{name}: cannot be downloaded ({error}); {remedy}") from error
    finally:
        socket.setdefaulttimeout(before)


def _arrays(file: h5py.File, path: Path) -> dict[str, h5py.Dataset]:
    """The file's arrays by key, not read yet, their types and lengths checked.

    Raises:
        InputError: naming the file, the key and the remedy.
    """
    found = {key: find(file, key, str(path)) for key in (*_REQUIRED, *_OPTIONAL)}
    for key in _REQUIRED:
        if found[key] is None:
            have = ", ".join(sorted(file)) or "nothing"
            raise InputError(
                f"{path}: key {key!r} is missing (it holds {have}); a D4RL file needs "
                f"{', '.join(_REQUIRED)}"
            )
    arrays = {k: check_array(v, k, str(path)) for k, v in found.items() if v is not None}
    count = len(arrays["observations"])
    for key, array in arrays.items():
        if len(array) != count:
            raise InputError(
                f"{path}: {key} has {len(array)} rows but observations {count}; "
                "every key needs one row a step"
            )
    if not count:
        raise InputError(f"{path}: it holds no steps; get it again")
    return arrays


def _flags(
    arrays: dict[str, h5py.Dataset], path: Path, limit: int | None, by_name: bool
) -> tuple[Tensor, Tensor]:
    """Terminated and truncated [N] of a file."""
    terminated, timeouts = (
        as_flags(arrays[key][()], str(path), key) if key in arrays else None
        for key in ("terminals", "timeouts")
    )
    assert terminated is not None
    if timeouts is not None and timeouts.any():
        return terminated, timeouts & ~terminated
    if limit is None and not terminated.any():
        raise InputError(
            f"{path}: neither terminals nor timeouts mark an episode's end and the name tells "
            "no step limit; pass max_episode_steps"
        )
    if limit is None:
        warn_once(
            f"{path}: no timeouts and no known step limit, so episodes end at terminals "
            "alone; pass max_episode_steps if the environment has one"
        )
        return terminated, torch.zeros_like(terminated)
    if by_name:
        warn_once(
            f"{path}: no timeouts, so episodes end after {limit} steps, as in D4RL's of its name; "
            f"if yours do not, rename it: then task.max_episode_steps counts"
        )
    return terminated, _after_limit(terminated, limit) & ~terminated


def _after_limit(terminated: Tensor, limit: int) -> Tensor:
    """Where the step limit is reached, counted from each episode's start [N].

    >>> _after_limit(torch.tensor([0, 0, 0, 1, 0, 0]).bool(), 2).int().tolist()
    [0, 1, 0, 1, 0, 1]
    """
    row = torch.arange(len(terminated))
    start = torch.where(terminated, row + 1, 0).cummax(0).values.roll(1)  # of the run of each row
    start[0] = 0
    return (row - start + 1) % limit == 0


def _chunks(
    path: Path,
    terminated: Tensor,
    truncated: Tensor,
    observation_keys: Sequence[str | Key] | None,
) -> Iterator[Steps]:
    """The file's steps, whole episodes at once; one that the file's end cuts off is unfinished."""
    end = terminated | truncated
    end[-1] = True
    ends = torch.nonzero(end).squeeze(-1) + 1  # [trajectories]
    start = 0
    with opened(path) as file:
        arrays = _arrays(file, path)
        while start < len(terminated):
            # As many episodes as fit, at least one.
            last = int(torch.searchsorted(ends, start + CHUNK_STEPS, right=True)) - 1
            at_least = int(torch.searchsorted(ends, start, right=True))
            stop = int(ends[max(last, at_least)])
            observation, following = _observations(arrays, slice(start, stop), end[start:stop])
            yield Steps(
                join({("observation",): observation}, observation_keys, str(path), "observations"),
                arrays["actions"][start:stop],
                join({("observation",): following}, observation_keys, str(path), "observations"),
                arrays["rewards"][start:stop],
                terminated[start:stop],
                truncated[start:stop],
                end[start:stop],
            )
            start = stop


def _observations(
    arrays: dict[str, h5py.Dataset], rows: slice, end: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Observations [n, O] of ``rows``, whole trajectories, and what followed each."""
    observation: Any = arrays["observations"][rows]
    if "next_observations" in arrays:
        return observation, arrays["next_observations"][rows]
    following = np.concatenate([observation[1:], observation[-1:]])
    following[end.numpy()] = observation[end.numpy()]
    return observation, following
