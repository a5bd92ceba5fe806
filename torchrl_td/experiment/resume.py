"""Continuing a run: which folder holds it, and what may be different this time."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchrl_td.advice import command
from torchrl_td.checkpoint import (
    find_checkpoint,
    load_about,
    rename_damaged_after,
    tidy_checkpoints,
)
from torchrl_td.config import Config, check_config, check_stored_env, reads, setting_of, to_dict
from torchrl_td.config.limits import FREE_FORM
from torchrl_td.errors import InputError
from torchrl_td.experiment.run_folder import SETTINGS, holds_run, read_settings
from torchrl_td.training.distributed import World

# What a resumed run may do differently: none of it changes what is learned.
CHANGEABLE = (
    "resume",
    "output_dir",
    "device",
    "progress",
    "logger",
    "training.stop_after",
    "training.threads",
    "training.compile",
    "training.cudagraph",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "dataset.source",  # where it lies; that it is the same is checked
    # How it is played and scored: a wrong word here must not cost the training.
    "task.env_kwargs",
    "task.reset_options",
    "task.success_key",
    "task.score_key",
    "evaluation.workers",
    "evaluation.compile",
    "evaluation.baseline",
)
_PLAYS = ("evaluation.episodes", "task.env", "training.evaluate_every")
# By which a run is trained on, where the words of its resumption name them.
TRAINED_ON = ("training.steps", "training.decay_steps", "training.patience")
_CHECKPOINTS = "checkpoint"  # the folder of them in a run's


def folder_of(config: Config, overrides: Sequence[str] | None) -> Path:
    """The folder a run is to write to: ``output_dir``, or that of the run to continue.

    Raises:
        InputError: if ``resume`` names no run, or ``output_dir`` another folder.
    """
    if config.resume in (None, "auto"):
        return Path(config.output_dir)
    folder = Path(str(config.resume)).expanduser()
    if folder.name == _CHECKPOINTS and not _continuable(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"nothing to resume: {folder} is no folder; give a run's output_dir")
    if not _continuable(folder):
        hint = "give a run's output_dir"
        if folder.parent.name == _CHECKPOINTS:
            hint = f"a run continues from its newest intact checkpoint: resume={folder.parents[1]}"
        raise InputError(
            f"nothing to resume in {folder}: it holds neither {SETTINGS} nor a folder "
            f"{_CHECKPOINTS}; {hint}"
        )
    output = Path(config.output_dir).expanduser()
    if "output_dir" in _named(overrides) and output.resolve() != folder.resolve():
        raise InputError(
            f"resume={config.resume} continues a run in its own folder, so output_dir={output} "
            f"cannot be given with it; leave it out, or copy the folder and resume the copy"
        )
    return folder


def resumed(
    config: Config, folder: Path, overrides: Sequence[str] | None, world: World
) -> tuple[Config, Path | None]:
    """The interrupted run's settings in place of the given ones, and its checkpoint.

    Args:
        config: the settings given.
        folder: the run's.
        overrides: the words among them that the user gave; ``None`` for all of them.
        world: this process' place among those of the run.

    Raises:
        InputError: if the folder holds something else, or other settings are given.
    """
    saved, checkpoint, done = folder / _CHECKPOINTS, None, 0
    if world.first and saved.is_dir():
        tidy_checkpoints(saved)
    world.wait()  # the others read what the first has tidied
    if any(saved.glob("step-*")):
        checkpoint = find_checkpoint(saved)
        about = load_about(checkpoint)
        settings, done = check_config(about["config"]), about["step"]
        if world.first:
            rename_damaged_after(saved, done)
    elif config.resume == "auto" and not (folder / SETTINGS).exists():
        if holds_run(folder):
            raise InputError(
                f"output_dir={folder} holds results, but no {SETTINGS} of a run to continue; "
                f"choose another folder"
            )
        return config, None
    else:
        settings = read_settings(folder)
    told = _goals(settings)
    settings = _continued(settings, config, overrides)
    if done < settings.training.steps and _goals(settings) != told:
        raise InputError(
            f"the run in {folder} learns of the goals that are played (value.played_goal_share), "
            f"which task.env_kwargs and task.reset_options decide: they can change once it has "
            f"done its {settings.training.steps} steps"
        )
    if settings.training.steps < done:
        raise InputError(
            f"training.steps={settings.training.steps}, but the run in {folder} has done {done}; "
            f"give at least as many"
        )
    return settings, checkpoint


def describe_training_on(config: Config, step: int, before: int) -> str:
    """What becomes of a run that is trained beyond the steps ``before`` that it was to have."""
    return (
        f"trains on from step {step} to {config.training.steps} in place of {before}; "
        f"{_schedule(config, step)}"
    )


def _schedule(config: Config, step: int) -> str:
    settings = config.training
    until = f"step {settings.decay_steps} (training.decay_steps)"
    if step < settings.decay_steps:
        return f"the learning rate falls until {until}"
    rate = settings.learning_rate * settings.final_learning_rate_share
    if settings.final_learning_rate_share == 1:
        return f"the learning rate stays at {rate:.3g}"
    return (
        f"the learning rate, which fell until {until}, stays at {rate:.3g}; with "
        f"training.decay_steps={settings.steps} given too it would fall until there instead"
    )


def _continuable(folder: Path) -> bool:
    return (folder / SETTINGS).exists() or (folder / _CHECKPOINTS).is_dir()


def _continued(stored: Config, given: Config, overrides: Sequence[str] | None) -> Config:
    """The stored settings with what a resumed run may change, checked.

    Raises:
        InputError: if something else was to change.
    """
    named, whole = _named(overrides), overrides is None or given.resume == "auto"
    before, now = _flat(to_dict(stored)), _flat(to_dict(given))
    if given.resume == "auto":
        # The same words as at the start: all that they mean has to be the same.
        # But where nothing reads them: their defaults may be others than they were.
        started, meant = (
            {key: value for key, value in one.items() if reads(stored, key)}
            for one in (before, now)
        )
        _check_same(started, meant, given.output_dir)
    check_stored_env(stored, given.task.env if whole or "task.env" in named else None)
    for key in named if given.resume != "auto" else ():
        if stored.evaluation.episodes == 0 and key in _PLAYS:
            raise InputError(
                f"the run was started to play nothing (evaluation.episodes=0), and so it goes on: "
                f"{key!r} cannot be given; play what it trained with {command('td-evaluate')} "
                f"checkpoint={given.resume} task.env=<Gymnasium id> evaluation.episodes=40"
            )
        allowed = _changeable(key) or key in TRAINED_ON
        if not allowed and not (key in before and before[key] == now.get(key)):
            raise InputError(
                f"resume continues a run with its own settings, so {key!r} cannot be given; "
                f"allowed are {', '.join((*CHANGEABLE, *TRAINED_ON))}"
            )
    for key in filter(_changeable, _flat(to_dict(given))):
        if whole or key == "training.stop_after" or any(_within(key, word) for word in named):
            _copy(key, given, stored)
    for word in named:
        # Of settings of any name, what is no longer given is left out.
        if word in TRAINED_ON or (f"{word}." in FREE_FORM and _changeable(word)):
            _copy(word, given, stored)
    return check_config(to_dict(stored))


def _goals(config: Config) -> Any:
    """What decides the goals that training is told; None where it is told none."""
    if not (config.value.played_goal_share and reads(config, "value.played_goal_share")):
        return None
    return copy.deepcopy((config.task.env_kwargs, config.task.reset_options))


def _check_same(before: dict[str, Any], now: dict[str, Any], folder: str) -> None:
    first = ("algorithm.name", *TRAINED_ON[:1])  # what the others follow from
    for key in sorted(before.keys() | now.keys(), key=lambda key: (key not in first, key)):
        if _changeable(key) or before.get(key) == now.get(key):
            continue
        hint = "give the settings it was started with, or another output_dir"
        if key == "training.steps" and now[key] > before[key]:
            hint += f"; to train on, resume={folder} {key}={now.get(key)}"
        raise InputError(
            f"the run in {folder} has {key}={before.get(key)}, not {now.get(key)}; {hint}"
        )


def _copy(key: str, source: Any, target: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        if isinstance(source, dict):  # what is handed to the environment, by any name
            target[section] = source[section]
            return
        source, target = getattr(source, section), getattr(target, section)
    if isinstance(source, dict):
        target[name] = source[name]
    else:
        setattr(target, name, getattr(source, name))


def _named(overrides: Sequence[str] | None) -> list[str]:
    """The settings and groups of them that words name."""
    return [setting_of(word) for word in overrides or ()]


def _within(key: str, setting: str) -> bool:
    return key == setting or key.startswith(f"{setting}.")


def _changeable(key: str) -> bool:
    return any(_within(key, setting) for setting in CHANGEABLE)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
