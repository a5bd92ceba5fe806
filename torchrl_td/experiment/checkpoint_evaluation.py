"""Evaluates a trained policy from its checkpoint, as `td-evaluate` does."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torchrl.data import TensorSpec

from torchrl_td.checkpoint import (
    action_spec,
    counted_actions,
    described_action,
    find_checkpoint,
    load_model,
)
from torchrl_td.config import (
    TaskConfig,
    check_config,
    check_read,
    check_stored_env,
    override_config,
    word_by_word,
)
from torchrl_td.envs import make_base_env, opened
from torchrl_td.errors import InputError
from torchrl_td.experiment.acting import make_actor
from torchrl_td.experiment.evaluate import evaluate
from torchrl_td.experiment.results import describe_run
from torchrl_td.experiment.run import pick_device
from torchrl_td.experiment.run_folder import versions, write_json

_RESULT_BYTES = 1 << 16  # more than a summary of some hundred episodes takes
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


def evaluate_checkpoint(
    words: list[str], show: Callable[[dict[str, Any]], object] | None = None
) -> dict[str, Any]:
    """Evaluates a checkpoint with ``key=value`` words over its settings.

    Args:
        words: ``checkpoint=PATH`` and, optionally, ``device=``, ``output=FILE.json`` and any
            settings under ``planner.`` and ``evaluation.``, and those of ``task.`` that say
            what is played and how it is scored.
        show: called with the summary before it is written to a file, which may fail.

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
    spec = _spec_taken(config.task, about) if named else action_spec(about)
    actor = make_actor(model, config, spec.to(device))
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
    if show is not None:
        show(summary)
    if output is not None:
        write_json(output, summary, "output")
    return summary


def _sorted_words(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """The program's own words by their key, and those that name settings."""
    own, overrides = {"checkpoint": "", "device": "auto", "output": ""}, []
    for word in words:
        key, separator, value = word.partition("=")
        if separator and key in own:
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""  # as for hydra
            own[key] = value[1:-1] if quoted else value
        else:
            overrides.append(word)
    if not own["checkpoint"]:
        raise InputError("which checkpoint? give checkpoint=<output_dir>/checkpoint")
    overrides = word_by_word(overrides)
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


def _spec_taken(task: TaskConfig, about: Mapping[str, Any]) -> TensorSpec:
    """The action spec for another environment: the run's, its choices in the form wanted there.

    Raises:
        InputError: its actions are others, of which it may take the first in silence.
    """
    with opened(make_base_env(task)) as env:
        taken = described_action(env.action_spec)
    has, writes = counted_actions(taken), counted_actions(about)
    if has != writes:
        raise InputError(
            f"task.env={task.env}: its action is of {has}, what was trained here writes {writes}"
        )
    return action_spec(taken if "action_choices" in taken else about)


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
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(bytes(_RESULT_BYTES))
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise InputError(
            f"cannot write output={path}: {error.strerror}{where}; give another file"
        ) from None
    return path
