"""Minari's folder of local datasets, and how a recording gets into it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import minari
from minari.data_collector import EpisodeBuffer

from torchrl_td.errors import InputError

_STAGING = ".recording-"
_STALE_SECONDS = 6 * 3600.0


def dataset_path(dataset_id: str) -> Path:
    """The folder of a local Minari dataset, whether it exists or not."""
    return Path(minari.storage.get_dataset_path(dataset_id))


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
    for left in root.glob(f"{_STAGING}*"):
        if time.time() - left.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    before = os.environ.get("MINARI_DATASETS_PATH")
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=root))
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


def check_seed(seed: int) -> None:
    """Refuse a seed that environments refuse.

    Raises:
        InputError: it is negative.
    """
    if seed < 0:
        raise InputError(f"recording needs a seed of 0 or more, got {seed}")


def check_recording(dataset_id: str, steps: int, overwrite: bool, seed: int) -> None:
    """Refuse a recording before it begins.

    Raises:
        InputError: no steps are asked for, the seed is negative, or the dataset exists and may not
            be replaced.
    """
    check_seed(seed)
    if steps < 1:
        raise InputError(f"recording needs steps >= 1, got {steps}")
    place = dataset_path(dataset_id)
    if place.exists() and not overwrite:
        raise InputError(
            f"{place}: dataset {dataset_id} exists; replace it with overwrite=True (--overwrite), "
            "or take another id"
        )


def write_dataset(
    dataset_id: str,
    episodes: Sequence[Mapping[str, Any]],
    env: gymnasium.Env,
    *,
    algorithm_name: str,
    description: str,
    references: tuple[float, float] | None = None,
    metadata: Sequence[Mapping[str, Any]] | None = None,
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
        **about: more arguments of ``minari.create_dataset_from_buffers``.
    """
    low, high = references or (None, None)
    buffers = [EpisodeBuffer(id=i, infos=None, **episode) for i, episode in enumerate(episodes)]
    with staged(dataset_id), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # author, e-mail, permalink: this is local data
        dataset = minari.create_dataset_from_buffers(
            dataset_id,
            buffers,
            env=env,
            algorithm_name=algorithm_name,
            description=description,
            ref_min_score=low,
            ref_max_score=high,
            data_format="hdf5",
            **about,
        )
        if metadata is not None:
            dataset.storage.update_episode_metadata(metadata, range(len(metadata)))
