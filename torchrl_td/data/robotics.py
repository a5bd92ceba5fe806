"""gymnasium-robotics' environments, where it is installed."""

from __future__ import annotations

import contextlib
import io

import gymnasium


def register_robotics() -> None:
    """Makes them known to Gymnasium, without the notice on Adroit that every import prints.

    Raises:
        ImportError: it is not installed.
    """
    with contextlib.redirect_stderr(io.StringIO()):
        import gymnasium_robotics
    gymnasium.register_envs(gymnasium_robotics)
