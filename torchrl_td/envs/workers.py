"""Processes that step environments."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from multiprocessing import resource_tracker
from typing import Any

from torchrl.envs import EnvBase

_SIGNAL_OF_PARENTS_DEATH = 1  # PR_SET_PDEATHSIG of Linux


def start_quiet_tracker() -> None:
    """Has Python remove the semaphores of a run that is killed, without counting them."""
    quiet = "ignore::UserWarning:multiprocessing.resource_tracker"
    given = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = f"{given},{quiet}" if given else quiet
    try:
        resource_tracker.ensure_running()  # a process of its own, of this environment
    finally:
        if given is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = given


def in_worker(build: Any, parent: int, **kwargs: Any) -> EnvBase:
    """Builds an environment in a worker process, which on Linux ends when its parent is killed."""
    if sys.platform == "linux" and os.getpid() != parent:
        ctypes.CDLL(None).prctl(_SIGNAL_OF_PARENTS_DEATH, signal.SIGKILL)
    return build(**kwargs)
