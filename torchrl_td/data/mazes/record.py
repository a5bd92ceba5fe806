"""Minari's folder of local datasets, and how a recording gets into it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

from torchrl_td.data.mazes.processes import end_with
from torchrl_td.errors import InputError, first_line

_STAGING = ".recording-"
_CHUNKING = 1.5  # times the numbers' own size: HDF5 fills its chunks up
_OVERHEAD = 1 << 15  # bytes: HDF5's own, of its groups
_STALE_SECONDS = 6 * 3600.0
_LARGEST_SEED = 2**32 - 1


def dataset_path(dataset_id: str) -> Path:
    """The folder of a local Minari dataset, whether it exists or not.

    Raises:
        InputError: Minari's folder cannot be made.
    """
    try:
        return Path(minari.storage.get_dataset_path(dataset_id))
    except OSError as error:
        raise InputError(
            f"Minari's folder of datasets cannot be made ({error}); set MINARI_DATASETS_PATH to "
            "one that can"
        ) from error


@contextlib.contextmanager
def staged(dataset_id: str) -> Iterator[None]:
    """Let Minari write a dataset into a hidden folder, and move it to its place when whole.

    A process that is killed half way leaves no dataset, only the hidden folder, which a
    later recording removes.

    Args:
        dataset_id: of the dataset that is written inside the ``with``; an existing one
            of that id is replaced.
    """
    root, place = dataset_path(""), dataset_path(dataset_id)
    beside = _on_the_disk_of(place)
    for left in beside.glob(f"{_STAGING}*"):
        if time.time() - left.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    before = os.environ.get("MINARI_DATASETS_PATH")
    try:
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=beside))
    except OSError as error:
        raise _not_written(beside, error) from error
    try:
        os.environ["MINARI_DATASETS_PATH"] = str(staging)
        yield
        namespace = dataset_id.rpartition("/")[0]
        os.environ["MINARI_DATASETS_PATH"] = str(root)
        if namespace and namespace not in minari.namespace.list_local_namespaces():
            minari.namespace.create_namespace(namespace)
        if place.exists():  # out of the way first: a folder that is not empty is not replaced
            place.rename(staging / "replaced")
        place.parent.mkdir(parents=True, exist_ok=True)
        (staging / dataset_id).rename(place)
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before
        shutil.rmtree(staging, ignore_errors=True)


def _on_the_disk_of(place: Path) -> Path:
    """Minari's folder or, where a link leads to another disk, the folder there."""
    root = dataset_path("")
    folder = next(parent for parent in place.parents if parent.exists())
    return root if folder.stat().st_dev == root.stat().st_dev else folder.resolve()


def check_seed(seed: int) -> None:
    """Refuse a seed that environments, PyTorch or HDF5 refuse.

    Raises:
        InputError: it is negative, or too large.
    """
    if not 0 <= seed <= _LARGEST_SEED:
        raise InputError(f"recording needs a seed from 0 to {_LARGEST_SEED}, got {seed}")


def check_recording(dataset_id: str, steps: int, overwrite: bool, seed: int) -> None:
    """Refuse a recording before it begins.

    Raises:
        InputError: no steps are asked for, the seed is none that :func:`check_seed` takes, the
            dataset exists and may not be replaced, or its folder cannot be written.
    """
    check_seed(seed)
    if steps < 1:
        raise InputError(f"recording needs steps >= 1, got {steps}")
    place, root = dataset_path(dataset_id), dataset_path("")
    for folder in place.relative_to(root).parents:
        if (root / folder / "data" / "metadata.json").exists():
            raise InputError(f"{place}: it would lie in the dataset {folder}; take another id")
    if place.exists() and not overwrite:
        raise InputError(
            f"{place}: dataset {dataset_id} exists; replace it with overwrite=True (--overwrite), "
            "or take another id"
        )
    folder = _on_the_disk_of(place)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _not_written(folder, error) from error


def _not_written(root: Path, error: OSError) -> InputError:
    """What to say where no dataset can be written."""
    return InputError(
        f"{root}: no dataset can be written there ({error.strerror or error}); make room, or set "
        "MINARI_DATASETS_PATH to another folder"
    )


def _reserve(folder: Path, episodes: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a disk that is too full before HDF5 meets its end, which crashes the process."""
    room = len(episodes) * _OVERHEAD + int(_CHUNKING * sum(map(_size, episodes)))
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, room)
        elif shutil.disk_usage(folder).free < room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _size(value: Any) -> int:
    """Bytes of all arrays in nested mappings."""
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    return value.nbytes if isinstance(value, np.ndarray) else 0


def _in_own_process(write: Callable[[], None]) -> None:
    """Write in a process of its own: HDF5 crashes one whose disk others fill meanwhile.

    Raises:
        OSError: it cannot be written.
    """
    if sys.platform != "linux":
        write()
        return
    context, parent = get_context("fork"), os.getpid()
    failure, says = context.Pipe(duplex=False)

    def child() -> None:
        end_with(parent)
        try:
            write()
        except Exception as error:
            if isinstance(error, (OSError, RuntimeError)):  # of which HDF5 raises either
                error = OSError(getattr(error, "strerror", None) or first_line(error))
            says.send(error)
            os._exit(1)  # no clean-up of files that HDF5 could not write

    process = context.Process(target=child)
    process.start()
    says.close()
    process.join()
    if process.exitcode:
        try:
            raise failure.recv()
        except EOFError:  # it crashed
            raise OSError("HDF5 failed, as on a full disk") from None


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """What the disk refuses becomes one line."""
    try:
        yield
    except OSError as error:
        raise _not_written(dataset_path(""), error) from error


def write_dataset(
    dataset_id: str,
    episodes: Sequence[Mapping[str, Any]],
    env: gymnasium.Env,
    *,
    algorithm_name: str,
    description: str,
    references: tuple[float, float] | None = None,
    metadata: Sequence[Mapping[str, Any]] | None = None,
    provenance: Mapping[str, Any] | None = None,
    **about: Any,
) -> None:
    """Write episodes as a local Minari dataset, whole or not at all; it replaces one of that id.

    Args:
        dataset_id: of the dataset.
        episodes: each the arguments of Minari's ``EpisodeBuffer`` but its number.
        env: the environment they were recorded in.
        algorithm_name: what chose the actions.
        description: a sentence or two.
        references: returns that score 0 and 100, if the task has any.
        metadata: more to keep of each episode.
        provenance: more to keep of the dataset, as JSON under that name.
        **about: more arguments of ``minari.create_dataset_from_buffers``.

    Raises:
        InputError: there is no room for it, or its folder cannot be written.
    """
    low, high = references or (None, None)
    played: dict[str, Any] = {"env": env}
    try:
        _ = env.spec and env.spec.to_json()
    except (ValueError, TypeError):  # registered with what no file can name, such as a class
        played = {"observation_space": env.observation_space, "action_space": env.action_space}
    buffers = [EpisodeBuffer(id=i, infos=None, **episode) for i, episode in enumerate(episodes)]

    def write() -> None:
        dataset = minari.create_dataset_from_buffers(
            dataset_id,
            buffers,
            **played,
            algorithm_name=algorithm_name,
            description=description,
            ref_min_score=low,
            ref_max_score=high,
            data_format="hdf5",
            **about,
        )
        if provenance is not None:
            dataset.storage.update_metadata({"provenance": json.dumps(dict(provenance))})
        if metadata is not None:
            dataset.storage.update_episode_metadata(metadata, range(len(metadata)))

    with _one_line_errors(), staged(dataset_id), warnings.catch_warnings():
        _reserve(dataset_path(""), episodes)
        warnings.simplefilter("ignore")  # author, e-mail, permalink: this is local data
        _in_own_process(write)
