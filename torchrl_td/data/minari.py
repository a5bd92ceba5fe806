"""Minari datasets, through TorchRL's own ``MinariExperienceReplay``, proved."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl import torchrl_logger
from torchrl.data.datasets import MinariExperienceReplay, minari_data

from torchrl_td.data.pointmaze import POINTMAZE_TASKS, ensure_pointmaze
from torchrl_td.errors import TDError

_PROVED = 5  # episodes compared with Minari's own reading


def load_minari(dataset_id: str) -> TensorDictBase:
    """The steps of a Minari dataset as TorchRL's class gives them, [N] on the CPU.

    The PointMaze datasets are recorded if they are missing. What was loaded is
    compared with what Minari itself reads.

    Raises:
        TDError: no such dataset, no network, a damaged file, or an odd reading.
    """
    import minari

    for size in POINTMAZE_TASKS:
        if dataset_id == f"pointmaze/{size}-v0":
            ensure_pointmaze(size)  # type: ignore[arg-type]
    name = f"minari:{dataset_id}"
    path = Path(minari.storage.get_dataset_path(dataset_id))
    if not (path / "data").exists():
        raise TDError(
            f"{name}: not found under {path}; get it with 'minari download {dataset_id}' "
            "or copy its folder there"
        )
    try:
        dataset = minari.load_dataset(dataset_id)
    except Exception as error:
        raise TDError(
            f"{path}: not a readable Minari dataset ({_line(error)}); delete it and get it again"
        ) from error
    _check_lengths(dataset, name)
    with tempfile.TemporaryDirectory() as folder, memmap_like_copies(), _quiet():
        try:
            replay = MinariExperienceReplay(
                dataset_id, batch_size=1, root=folder, load_from_local_minari=True
            )
        except Exception as error:
            raise TDError(f"{path}: TorchRL cannot read it ({_line(error)})") from error
        steps = replay[:].clone()
    prove(steps, dataset, name)
    return steps


@contextlib.contextmanager
def memmap_like_copies() -> Iterator[None]:
    """Let ``memmap_like`` copy values while ``MinariExperienceReplay`` is built.

    TorchRL 0.12 to 0.14.1 calls ``memmap_like``, which only allocates, on the filled
    tensordict where ``memmap`` was meant, and so returns zeros.
    """
    before = TensorDict.memmap_like
    TensorDict.memmap_like = TensorDict.memmap  # type: ignore[method-assign]
    try:
        yield
    finally:
        TensorDict.memmap_like = before  # type: ignore[method-assign]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep TorchRL's own bar and its listing of every field off the terminal."""
    level = torchrl_logger.level
    torchrl_logger.setLevel(logging.WARNING)
    has_tqdm = minari_data._has_tqdm
    minari_data._has_tqdm = False
    try:
        yield
    finally:
        minari_data._has_tqdm = has_tqdm
        torchrl_logger.setLevel(level)


def _check_lengths(dataset: Any, name: str) -> None:
    """Refuse a dataset without episodes, or with an episode without steps."""
    if dataset.total_episodes == 0 or dataset.total_steps == 0:
        raise TDError(f"{name}: it holds no episodes; delete it and record or download it again")
    for meta in dataset.storage.get_episode_metadata(range(int(dataset.total_episodes))):
        if int(meta["total_steps"]) == 0:
            raise TDError(f"{name}: episode {meta['id']} has no steps; remove it from the dataset")


def prove(steps: TensorDictBase, dataset: Any, name: str) -> None:
    """Compare a few episodes of what was loaded with what Minari itself reads.

    Raises:
        TDError: a length or a number differs.
    """
    lengths = [
        int(meta["total_steps"])
        for meta in dataset.storage.get_episode_metadata(range(int(dataset.total_episodes)))
    ]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    if steps.batch_size[0] != starts[-1]:
        raise TDError(
            f"{name}: {steps.batch_size[0]} steps were read of {starts[-1]}; it is damaged, "
            "delete it and get it again"
        )
    chosen = np.unique(np.linspace(0, len(lengths) - 1, _PROVED).round().astype(int))
    for number, episode in zip(chosen, dataset.storage.get_episodes(chosen.tolist()), strict=True):
        rows = steps[int(starts[number]) : int(starts[number + 1])]
        pairs = [
            ("action", episode["actions"]),
            (("next", "reward"), episode["rewards"]),
            (("next", "terminated"), episode["terminations"]),
            (("next", "truncated"), episode["truncations"]),
        ]
        for key, value in _flat(episode["observations"], ("observation",)):
            pairs += [(key, value[:-1]), (("next", *key), value[1:])]
        for key, value in pairs:
            read, want = rows.get(key), torch.as_tensor(np.asarray(value))
            if not torch.equal(read.reshape(want.shape), want.to(read.dtype)):
                raise TDError(
                    f"{name}: {key!r} of episode {number} is not what the file holds; "
                    "this version of TorchRL reads Minari wrongly, install another"
                )


def _flat(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """The arrays of a nested mapping with their paths."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _flat(entry, (*path, key))
    else:
        yield path, value


def _line(error: BaseException) -> str:
    """An exception's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__
