"""Ctrl-C, SIGTERM and SIGUSR2 as a request to save and stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stop:
    """Whether a run was told to stop, and by which signal.

    Attributes:
        signal: its number; ``None`` so far.

    Examples:
        >>> from torchrl_td.experiment.signals import Stop
        >>> stop = Stop()
        >>> with stop.at_once():
        ...     stop(15)
        ...     print("not reached")
        >>> stop.asked, stop.signal
        (True, 15)
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._at_once = False

    def __call__(self, number: int) -> None:
        """Handles a signal."""
        self.signal = number
        if self._at_once:
            raise KeyboardInterrupt

    @property
    def asked(self) -> bool:
        """Whether there was one."""
        return self.signal is not None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Around work that may take minutes, which a signal breaks off; elsewhere it is noted."""
        self._at_once = True
        try:
            yield
        except KeyboardInterrupt:
            if not self.asked:
                raise
        finally:
            self._at_once = False


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
