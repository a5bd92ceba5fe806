"""Shared by the command line programs: errors in one line, results as a table."""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from torchrl_td.config import Config
from torchrl_td.config.limits import ALGORITHMS, FREE_FORM
from torchrl_td.errors import InputError, first_line
from torchrl_td.experiment.printing import print_results as print_results
from torchrl_td.experiment.streams import close_streams, prepare_streams, write_to

# What hydra's parser says of a word that it cannot read.
_UNPARSED = ("Lexer", "mismatched input", "extraneous input", "no viable alternative")
_failed: list[int] = []  # exit statuses of the jobs of one command
_programs: list[int] = []  # ids of the processes in which `main` runs a program


def main(program: Callable[[], Any], *configs: Path) -> None:
    """Runs a program; a user's mistake is one line on stderr and exit status 2.

    Args:
        program: what to run.
        *configs: folders of the YAML files it composes, to name what there is.
    """
    prepare_streams()
    # Hydra would print its own message and hide the exception otherwise.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    _programs.append(os.getpid())
    _failed.clear()
    try:
        program()
    except InputError as error:
        _fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _fail(explain(str(error), *configs))
    except ValueError as error:
        if str(error).startswith("Only one of --run"):  # hydra's, of its options
            _fail(str(error))
        if "Config group override" not in str(error):
            raise
        _fail(_no_file_chosen(sys.argv[1:], configs))
    except yaml.YAMLError as error:  # of a file of the user's; it names file and line
        _fail(" ".join(str(error).split()))
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except Exception as error:
        says = _submitit_says(error) or _memory_says(error)
        if says is None:
            raise
        _fail(says)
    close_streams()
    if _failed:
        sys.exit(_failed[-1])


def job(function: Callable[[Any], None]) -> Callable[[Any], None]:
    """Makes a hydra job's mistakes one line each; the other jobs of a multirun go on.

    In a process that a launcher (submitit, joblib) started, the mistake goes to the job's own log
    and back to the program, which may have ended before.
    """

    @functools.wraps(function)
    def reporting(config: Any) -> None:
        try:
            function(config)
        except InputError as error:
            write_to(sys.stderr, f"error: {error}\n")
            if os.getpid() not in _programs:  # a launcher may have sent the list with the job
                raise
            _failed.append(2)

    return reporting


def stop(signal_number: int) -> None:
    """Ends a program that a signal stopped, with the status that shells give it.

    Where a launcher listens to SIGUSR2, it hears it now, after the checkpoint: submitit puts the
    job back into the queue.
    """
    if signal_number == signal.SIGUSR2 and callable(signal.getsignal(signal_number)):
        signal.raise_signal(signal_number)
    sys.exit(128 + signal_number)


def explain(message: str, *configs: Path) -> str:
    """What hydra says of wrong words, in one line that names what is allowed.

    Args:
        message: hydra's, several lines long.
        *configs: folders of the YAML files.

    Examples:
        >>> from torchrl_td.experiment.cli import explain
        >>> explain("Could not override 'seeed'.\\nTo append to your config ...")[:47]
        "unknown setting 'seeed'; allowed are algorithm,"
    """
    group = re.search(r"Could not find '([^/']+)/([^']*)'", message)
    if group and configs and group.group(1) != "hydra":  # whose files are not ours to list
        return _unknown_choice(group.group(1), group.group(2), configs)
    key = re.search(r"Could not override '([^']+)'", message)
    if key and not key.group(1).startswith("hydra."):  # whose settings are not ours to list
        return _unknown_setting(key.group(1))
    if any(says in message for says in _UNPARSED):
        message += "; quote what it holds, as in 'output_dir=\"~/runs\"'"
    return " ".join(message.split())


def _unknown_choice(kind: str, name: str, configs: Sequence[Path]) -> str:
    folders = [folder / kind for folder in configs]
    files = [(folder, file) for folder in folders for file in sorted(folder.rglob("*.yaml"))]
    allowed = [file.relative_to(folder).with_suffix("").as_posix() for folder, file in files]
    return f"unknown {kind} {name!r}; allowed are {', '.join(dict.fromkeys(allowed))}"


def _no_file_chosen(words: Sequence[str], configs: Sequence[Path]) -> str:
    """Of words such as ``task=null``, which hydra does not name, or ``=5``."""
    for word in words:
        key, _, value = word.partition("=")
        files = [folder / key / f"{value}.yaml" for folder in configs]
        if key and any(file.parent.is_dir() for file in files) and not any(map(Path.exists, files)):
            return _unknown_choice(key, value, configs)
    return "a word of the command line is not of the form key=value"


def _unknown_setting(key: str) -> str:
    schema: Any = OmegaConf.structured(Config)
    known, parts = schema, key.split(".")
    for depth, part in enumerate(parts):
        names = set(known.keys()) if OmegaConf.is_dict(known) else set()
        if part not in names:
            where = ".".join(parts[: depth + 1])
            return f"unknown setting {where!r}; allowed are {', '.join(sorted(names)) or 'none'}"
        known = None if OmegaConf.is_missing(known, part) else known[part]
    if parts[0] == "algorithm":
        readers = " or ".join(name for name, reads in ALGORITHMS.items() if parts[1] in reads)
        return f"{key} is read by algorithm={readers} alone; choose it, or leave {key} out"
    what = f"these entries of {key!r}" if f"{key}." in FREE_FORM else f"{key!r}"
    return f"the files composed here do not give {what}; add it with a plus: +{key}=<value>"


def _memory_says(error: Exception) -> str | None:
    """Of memory that is used up, in one line; None for any other error."""
    used_up = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if not used_up and not (isinstance(error, RuntimeError) and "allocate memory" in str(error)):
        return None
    return (
        f"out of memory ({first_line(error)}); lower training.batch_size or the networks' sizes; "
        f"what was saved stays, and resume= continues it"
    )


def _submitit_says(error: Exception) -> str | None:
    """Of a job that was refused, cancelled or killed, in one line; None for any other error."""
    says = str(error).partition("\n---")[0]
    if type(error).__module__ != "submitit.core.utils" or says.endswith("with trace:"):
        return None  # a traceback in the message: a fault of ours
    return " ".join(says.removesuffix("Error stream produced:").split())


def _fail(message: str, status: int = 2) -> None:
    write_to(sys.stderr, f"error: {message}\n")
    close_streams()
    sys.exit(status)
