"""Minari's folder of local datasets."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import minari

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
