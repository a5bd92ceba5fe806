"""A dataset that is missing is made by one process; others that want it wait."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from torchrl import torchrl_logger

from torchrl_td.data.mazes.record import dataset_path

_TRIES = 100  # a file system that numbers its files anew would have it tried for ever


def make_once(dataset_id: str, make: Callable[[], object]) -> None:
    """Records or downloads a Minari dataset unless it is there, or another process makes it.

    Args:
        dataset_id: of the dataset.
        make: makes it; what it raises is raised.
    """
    data = dataset_path(dataset_id) / "data"
    if data.exists():
        return
    with _turn(dataset_id):
        if not data.exists():  # it is, where another process was waited for
            make()


@contextlib.contextmanager
def _turn(dataset_id: str) -> Iterator[None]:
    """Held by one process at a time; where no lock can be had, by each that asks."""
    path = dataset_path("") / f".making-{dataset_id.replace('/', '-')}.lock"
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # a folder that cannot be written: ``make`` says more
            held.callback(_release, path, _locked(path, dataset_id))
        yield


def _locked(path: Path, dataset_id: str) -> int:
    """The file at a path, open and locked: who had it before has removed the one it was in.

    Raises:
        OSError: no lock can be had.
    """
    import fcntl

    told = False
    for _ in range(_TRIES):
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o666)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    torchrl_logger.info(
                        f"another process makes minari:{dataset_id}; waiting for it"
                    )
                    told = True
                fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_at(path, lock):
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
    raise OSError(f"{path}: another file each time")


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def _release(path: Path, lock: int) -> None:
    import fcntl

    with contextlib.suppress(OSError):  # one that stays is another's to lock
        path.unlink()
    with contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_UN)  # for processes forked meanwhile, which have it open, too
    os.close(lock)
