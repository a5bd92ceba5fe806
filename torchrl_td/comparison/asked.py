"""Whether a result is of what a comparison is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchrl_td.comparison.controller import settings_of_episodes
from torchrl_td.comparison.results import Result, return_asked, settings_read
from torchrl_td.config import Config
from torchrl_td.errors import InputError
from torchrl_td.experiment.results import describe_run


def check_asked(result: Result, config: Config, file: Path, source_given: bool) -> None:
    """Refuses a result of other settings than those asked for.

    Args:
        result: the file's content.
        config: the settings asked for.
        file: named in the refusal.
        source_given: whether they name the data; else they are the task's, wherever the result's
            lay.

    Raises:
        InputError: at the first setting that differs.
    """
    asked = describe_run(config, {"source": config.dataset.source}, 0)
    asked["init_from"] = {"checkpoint": config.init_from} if config.init_from else None
    _check_same(_compared(result, source_given), _compared(asked, source_given), file)


def check_controller_asked(result: Result, config: Config, file: Path) -> None:
    """Refuses a controller's result of other episodes than those asked for.

    Args:
        result: the file's content; what an older one does not say is taken for what is asked.
        config: the settings asked for.
        file: named in the refusal.

    Raises:
        InputError: at the first setting that differs.
    """
    asked = settings_of_episodes(config)
    before = {"task.env": result["environment"], **_flat(asked | result["settings"], "settings")}
    _check_same(before, {"task.env": config.task.env, **_flat(asked, "settings")}, file)


def _check_same(before: dict[str, Any], now: dict[str, Any], file: Path) -> None:
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            setting = key.removeprefix("settings.")
            raise InputError(
                f"{file} was made with {setting}={before.get(key)}, asked is {now.get(key)}; "
                f"move it away to run it anew, or give the setting it was made with"
            )


def _compared(result: Result, with_source: bool) -> dict[str, Any]:
    compared = {key: result.get(key) for key in ("seed", "planner")}
    compared["init_from"] = (result.get("init_from") or {}).get("checkpoint")
    compared |= {"settings": settings_read(result), "target_return": return_asked(result)}
    if with_source:
        compared["dataset"] = {"source": result.get("dataset", {}).get("source")}
    return {k: v for name in compared for k, v in _flat(compared[name], name).items()}


def _flat(value: Any, prefix: str) -> dict[str, Any]:
    """Nested settings by their whole names."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for name in value for k, v in _flat(value[name], f"{prefix}.{name}").items()}
