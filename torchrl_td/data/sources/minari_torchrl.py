"""Parts of a Minari dataset through TorchRL's own ``MinariExperienceReplay``."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
from tensordict import TensorDict, TensorDictBase
from torchrl import torchrl_logger
from torchrl.data.datasets import MinariExperienceReplay, minari_data

_LINKED = ("observations", "actions", "rewards", "terminations", "truncations")


@contextlib.contextmanager
def load_part(dataset_id: str, data: Path, numbers: Sequence[int]) -> Iterator[TensorDictBase]:
    """Some episodes of a dataset as TorchRL's class gives them.

    That class reads a whole HDF5 file into memory, several times. So that memory stays
    bounded it is given a small dataset whose file holds nothing but links to these
    episodes of the real one, without the infos.

    Args:
        dataset_id: of the dataset.
        data: its ``data`` folder, of the HDF5 format.
        numbers: of the episodes.

    Yields:
        The steps [n], memory-mapped from files that go when the ``with`` ends.
    """
    with tempfile.TemporaryDirectory(prefix="torchrl_td-") as folder:
        part = Path(folder) / "datasets" / dataset_id / "data"
        part.mkdir(parents=True)
        shutil.copyfile(data / "metadata.json", part / "metadata.json")
        # Of a single episode TorchRL's class makes an error, so it is given twice.
        linked = [*numbers, *numbers] if len(numbers) == 1 else list(numbers)
        with h5py.File(part / "main_data.hdf5", "w") as file:
            for at, number in enumerate(linked):
                for key in _LINKED:
                    target = f"/episode_{number}/{key}"
                    file[f"episode_{at}/{key}"] = h5py.ExternalLink(data / "main_data.hdf5", target)
        with _datasets_path(Path(folder) / "datasets"), memmap_like_copies(), _quiet():
            replay = MinariExperienceReplay(
                dataset_id,
                batch_size=1,
                root=Path(folder) / "torchrl",
                load_from_local_minari=True,
            )
        steps = replay[:]
        yield steps[: len(steps) // 2] if len(numbers) == 1 else steps


@contextlib.contextmanager
def memmap_like_copies() -> Iterator[None]:
    """Let ``memmap_like`` copy values while ``MinariExperienceReplay`` is built.

    TorchRL 0.12 to 0.14.1 calls ``memmap_like``, which only allocates, on the filled
    tensordict where ``memmap`` was meant, and so returns zeros.
    """
    before = TensorDict.memmap_like
    TensorDict.memmap_like = TensorDict.memmap  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        TensorDict.memmap_like = before  # type: ignore[method-assign]


@contextlib.contextmanager
def _datasets_path(path: Path) -> Iterator[None]:
    """Let Minari look for its datasets under ``path``."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


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
