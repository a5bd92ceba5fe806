"""A dataset that is missing is made by one process; others that want it wait."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from torchrl import torchrl_logger

from torchrl_td.data.mazes.record import dataset_path


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
    """Held by one process at a time; where the folder knows no locks, by each that asks."""
    import fcntl

    path = dataset_path("") / f".making-{dataset_id.replace('/', '-')}.lock"
    try:
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o666)
    except OSError:  # it cannot be written, of which ``make`` says more
        yield
        return
    with os.fdopen(lock) as file:
        try:
            with contextlib.suppress(OSError):
                _wait(file.fileno(), dataset_id)
            yield
        finally:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # of the processes forked meanwhile, too
                fcntl.flock(file, fcntl.LOCK_UN)


def _wait(lock: int, dataset_id: str) -> None:
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        torchrl_logger.info(f"another process makes minari:{dataset_id}; waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)
