"""Ctrl-C, SIGTERM and SIGUSR2 as a request to save and stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_signals(handler: Callable[[int], None]) -> Iterator[None]:
    """Turns Ctrl-C, SIGTERM and SIGUSR2 into a call; a second Ctrl-C interrupts at once.

    SIGUSR2 is what submitit lets Slurm send before a job's time is over.
    """

    def on_signal(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        handler(number)

    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            before[number] = signal.signal(number, on_signal)
    except ValueError:  # not in the main thread: the caller handles signals
        before = {}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
