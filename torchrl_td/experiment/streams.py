"""Standard output and error of a program, whatever they are connected to."""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from typing import Any

from torchrl import torchrl_logger


def prepare_streams() -> None:
    """What a stream cannot show, or a file that is no terminal, costs no run and has no colours."""
    logging.raiseExceptions = False  # logging would print a traceback for each line it cannot write
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for handler in torchrl_logger.handlers:
        stream = getattr(handler, "stream", None)
        if stream is None or not stream.isatty():
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))


def write_to(stream: Any, text: str) -> None:
    """Writes what is only to be read: the results are saved, whoever listens."""
    try:
        if stream is not None:
            stream.write(text)
            stream.flush()
    except (OSError, ValueError):  # full, a closed pipe; closed
        pass


def close_streams() -> None:
    """Else Python's own last flush of a broken stream would change the exit status."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
