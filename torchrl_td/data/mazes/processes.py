"""Work shared among processes that end when the one they work for does."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_workers() -> int:
    """One for each processor on Linux, else one: spawning needs a guard in the user's script."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """Results in the order of the items, whatever the number of processes.

    Args:
        function: what is done with each item; it can be pickled, as its results can.
        items: what there is to do.
        workers: how many processes; 1 does all of it in this one.
    """
    if workers == 1:
        yield from map(function, items)
        return
    # Forked where that is safe: a spawned process runs the caller's script once more.
    method = "fork" if sys.platform == "linux" else "spawn"
    with ProcessPoolExecutor(
        workers, get_context(method), initializer=end_with, initargs=(os.getpid(),)
    ) as pool:
        yield from pool.map(function, items)


def end_with(parent: int) -> None:
    """Let this process end when its parent does, even if that one is killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
