"""D4RL's HDF5 files: one long row of steps, cut into episodes."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import socket
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from torchrl import torchrl_logger
from torchrl.data.datasets import d4rl as torchrl_d4rl

from torchrl_td.data.keys import Key
from torchrl_td.data.sources.download import require_network
from torchrl_td.data.transitions import CHUNK_STEPS, Source, Steps, join
from torchrl_td.data.validation import warn_once
from torchrl_td.errors import InputError

_REQUIRED = ("observations", "actions", "rewards", "terminals")
_TIMEOUT = 30.0  # seconds without a byte before a download is given up

# D4RL's step limits, by how the name of an id or file begins; the first that fits counts.
STEP_LIMITS: dict[str, int] = {
    "hopper": 1000,
    "halfcheetah": 1000,
    "walker2d": 1000,
    "ant-maze-u": 700,
    "ant-maze": 1000,
    "antmaze-u": 700,
    "antmaze": 1000,
    "ant-": 1000,
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
    with _opened(path) as file:
        keys = _check(file, path)
        steps = len(file["actions"])
        ends = _ends(file, path, limit)
    variant = {
        "observation_keys": None if observation_keys is None else list(map(str, observation_keys)),
        "max_episode_steps": limit,
    }
    return Source(
        name=str(path),
        path=path,
        files=[path],
        chunks=partial(_chunks, path, *ends, observation_keys),
        steps=steps,
        keys=keys,
        variant=variant,
    )


def step_limit(name: str) -> int | None:
    """D4RL's step limit by the name of a dataset or file, or None.

    >>> step_limit("hopper-medium-v0"), step_limit("data/door-v0_demos_clipped.hdf5")
    (1000, 200)
    """
    stem = re.split(r"[/\\]", name)[-1].lower().replace("_", "-")
    return next((limit for start, limit in STEP_LIMITS.items() if stem.startswith(start)), None)


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


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """The open file; what HDF5 cannot read becomes one line."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: not a readable HDF5 file ({reason}); it is truncated or of another kind, "
            "get it again"
        ) from error


def _check(file: h5py.File, path: Path) -> dict[str, str]:
    """Refuse missing keys, odd types and lengths; returns what our keys are called.

    Raises:
        InputError: naming the file, the key and the remedy.
    """
    for key in _REQUIRED:
        if key not in file:
            have = ", ".join(sorted(file)) or "nothing"
            raise InputError(
                f"{path}: key {key!r} is missing (it holds {have}); a D4RL file needs "
                f"{', '.join(_REQUIRED)}"
            )
    count = None
    for key in (*_REQUIRED, "timeouts", "next_observations"):
        if key not in file:
            continue
        entry = file[key]
        if not isinstance(entry, h5py.Dataset) or not entry.shape:
            raise InputError(f"{path}: {key} is not an array; a D4RL file has one row a step")
        if entry.dtype.kind not in "fiub":
            raise InputError(f"{path}: {key} has dtype {entry.dtype}, not numbers; convert it")
        count = len(entry) if count is None else count
        if len(entry) != count:
            raise InputError(
                f"{path}: {key} has {len(entry)} rows but observations {count}; "
                "every key needs one row a step"
            )
    if not count:
        raise InputError(f"{path}: it holds no steps; get it again")
    following = "next_observations" if "next_observations" in file else "observations"
    return {
        "observation": "observations",
        "action": "actions",
        "next/observation": following,
        "next/reward": "rewards",
    }


def _ends(file: h5py.File, path: Path, limit: int | None) -> tuple[Tensor, Tensor]:
    """Terminated and truncated [N] of a file."""
    terminated = _flags(file, path, "terminals")
    timeouts = _flags(file, path, "timeouts") if "timeouts" in file else None
    done = terminated if timeouts is None else terminated | timeouts
    if timeouts is None or not timeouts.any():
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
        else:
            done = done | _after_limit(terminated, limit)
    done[-1] = True  # the file ends
    return terminated, done & ~terminated


def _flags(file: h5py.File, path: Path, key: str) -> Tensor:
    """A key of yes or no [N], of whatever type."""
    value = np.asarray(file[key][()])
    if value.size != len(value) or not np.isin(value, (0, 1)).all():
        raise InputError(f"{path}: {key} must be one 0 or 1 a step; mend the file")
    return torch.from_numpy(value.reshape(-1).astype(bool))


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
    """The file's steps, whole episodes at once."""
    ends = torch.nonzero(terminated | truncated).squeeze(-1) + 1  # [episodes]
    start = 0
    with _opened(path) as file:
        while start < len(terminated):
            # As many episodes as fit, at least one.
            last = int(torch.searchsorted(ends, start + CHUNK_STEPS, right=True)) - 1
            at_least = int(torch.searchsorted(ends, start, right=True))
            stop = int(ends[max(last, at_least)])
            rows = slice(start, stop)
            yield _read(file, rows, terminated[rows], truncated[rows], path, observation_keys)
            start = stop


def _read(
    file: h5py.File,
    rows: slice,
    terminated: Tensor,
    truncated: Tensor,
    path: Path,
    observation_keys: Sequence[str | Key] | None,
) -> Steps:
    """The steps of ``rows``, which end with an episode."""
    observation: Any = file["observations"][rows]
    if "next_observations" in file:
        following = file["next_observations"][rows]
    else:
        following = np.concatenate([observation[1:], observation[-1:]])
        done = (terminated | truncated).numpy()
        following[done] = observation[done]
    both = [
        join({("observation",): value}, observation_keys, str(path), "observations")
        for value in (observation, following)
    ]
    reward, action = file["rewards"][rows], file["actions"][rows]
    return Steps(both[0], action, both[1], reward, terminated, truncated)
