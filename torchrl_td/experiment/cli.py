"""Shared by the command line programs: errors in one line, results as a table."""

from __future__ import annotations

import errno
import functools
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from torchrl_td.checkpoint import action_spec, find_checkpoint, load_model
from torchrl_td.config import (
    Config,
    check_config,
    check_read,
    check_stored_env,
    override_config,
)
from torchrl_td.config.limits import ALGORITHMS
from torchrl_td.errors import InputError, first_line
from torchrl_td.experiment.acting import make_actor
from torchrl_td.experiment.evaluate import evaluate
from torchrl_td.experiment.printing import print_results as print_results
from torchrl_td.experiment.results import describe_run
from torchrl_td.experiment.run import pick_device
from torchrl_td.experiment.run_folder import versions, write_json
from torchrl_td.experiment.streams import close_streams, prepare_streams, write_to

# What evaluation reads of a task; and what gives other settings their value before training.
_PLAYED = (
    "env",
    "env_kwargs",
    "reset_options",
    "max_episode_steps",
    "score_min",
    "score_max",
    "success_key",
    "score_key",
)
_READ_INSTEAD = {
    "task.target_return": "evaluation.target_return",
    "task.refine_steps": "planner.refine_steps",
    "task.guidance_scale": "planner.guidance_scale",
    "evaluation.baseline": "the baseline's own checkpoint, <output_dir>/<baseline>",
}

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
        if "Config group override" not in str(error):  # of a word such as =5
            raise
        _fail("a word of the command line is not of the form key=value")
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
    group = re.search(r"Could not find '([^/']+)/([^']+)'", message)
    if group and configs:
        kind, name = group.groups()
        folders = [folder / kind for folder in configs]
        files = [(folder, file) for folder in folders for file in sorted(folder.rglob("*.yaml"))]
        allowed = [file.relative_to(folder).with_suffix("").as_posix() for folder, file in files]
        return f"unknown {kind} {name!r}; allowed are {', '.join(dict.fromkeys(allowed))}"
    key = re.search(r"Could not override '([^']+)'", message)
    if key and not key.group(1).startswith("hydra."):  # whose settings are not ours to list
        return _unknown_setting(key.group(1))
    return " ".join(message.split())


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
    return f"the files composed here do not give {key!r}; add it with a plus: +{key}=<value>"


def evaluate_checkpoint(words: list[str]) -> dict[str, Any]:
    """Evaluates a checkpoint with ``key=value`` words over its settings.

    Args:
        words: ``checkpoint=PATH`` and, optionally, ``device=``, ``output=FILE.json`` and any
            settings under ``planner.`` and ``evaluation.``, and those of ``task.`` that say
            what is played and how it is scored.

    Returns:
        A summary like ``results.json``, with one entry in ``results``.

    Raises:
        InputError: if the checkpoint or a word is wrong.
    """
    own, overrides = _sorted_words(words)
    output = _output_file(own["output"]) if own["output"] else None
    device = pick_device(own["device"])
    model, about = load_model(find_checkpoint(own["checkpoint"]), device)
    config = override_config(check_config(about["config"]), overrides)
    named = any(word.startswith("task.env=") for word in overrides)
    check_stored_env(config, config.task.env if named else None)
    check_read(config, overrides)
    if "evaluation.episodes=0" in overrides:
        raise InputError("evaluation.episodes=0 plays nothing; give how many episodes to play")
    if not config.evaluation.episodes:
        where = "" if config.task.env else ", and in which environment, task.env=<Gymnasium id>"
        raise InputError(
            f"the run of this checkpoint played nothing (evaluation.episodes=0); say how many "
            f"episodes to play, evaluation.episodes=40{where}"
        )
    actor = make_actor(model, config, action_spec(about).to(device))
    if config.value.enabled or "target_return" not in actor.in_keys:
        _check_asks_no_return(overrides)
    result = evaluate(actor, config)
    summary = {
        **describe_run(config, about["dataset"], about["step"]),
        **{key: about[key] for key in ("init_from",) if key in about},
        "checkpoint": str(own["checkpoint"]),
        "versions": versions(),
        "results": [result.to_dict()],
    }
    if output is not None:
        write_json(output, summary)
    return summary


def _sorted_words(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """The program's own words by their key, and those that name settings."""
    own, overrides = {"checkpoint": "", "device": "auto", "output": ""}, []
    for word in words:
        key, separator, value = word.partition("=")
        if separator and key in own:
            own[key] = value
        else:
            overrides.append(word)
    if not own["checkpoint"]:
        raise InputError("which checkpoint? give checkpoint=<output_dir>/checkpoint")
    for word in overrides:
        _check_changeable(word.partition("=")[0])
    return own, overrides


def _check_changeable(key: str) -> None:
    """Refuses a setting that a trained planner's evaluation would not read."""
    section, _, name = key.partition(".")
    if key in _READ_INSTEAD:
        raise InputError(f"evaluation does not read {key}; give {_READ_INSTEAD[key]}")
    if section in ("planner", "evaluation") or (
        section == "task" and name.partition(".")[0] in _PLAYED
    ):
        return
    task = ", ".join(f"task.{name}" for name in _PLAYED)
    raise InputError(
        f"{key!r} cannot be changed after training; allowed are checkpoint=, device=, output=, "
        f"planner.*, evaluation.*, {task}"
    )


def _check_asks_no_return(overrides: list[str]) -> None:
    for word in overrides:
        if word.startswith("evaluation.target_return="):
            raise InputError(f"{word} is not read: what was trained here is asked for no return")


def _output_file(word: str) -> Path:
    """Where results are to go, refused before they are made if they cannot."""
    path = Path(word).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, "its folder is not writable")
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise InputError(
            f"cannot write output={path}: {error.strerror}{where}; give another file"
        ) from None
    return path


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
