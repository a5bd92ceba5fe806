"""Settings out of files that others may have written: plain values, and nothing that acts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from torchrl_td.config.reading import check_config
from torchrl_td.config.settings import Config
from torchrl_td.errors import InputError, first_line

_LARGEST_FILE = 1 << 20  # bytes; a run's settings take some thousands


def stored_config(settings: Any) -> Config:
    """Checks settings out of a checkpoint or a run's folder, which are read as they stand.

    Args:
        settings: the dictionary read.

    Raises:
        InputError: as :func:`~torchrl_td.config.check_config`; or a value is an interpolation,
            which could read the environment's variables.

    Examples:
        >>> from torchrl_td.config import stored_config
        >>> stored_config({"preset": "${oc.env:HOME}"})
        Traceback (most recent call last):
        ...
        torchrl_td.errors.InputError: setting 'preset' holds '${oc.env:HOME}': ...
    """
    if not isinstance(settings, dict):
        raise InputError("the stored settings are no settings")
    _check_plain(settings, "")
    return check_config(settings)


def check_stored_env(config: Config, given: str | None, by: str = "task.env=") -> None:
    """Refuses stored settings whose environment would import a module, unless it was asked for.

    Gymnasium imports ``module`` to make an environment ``module:Name-v0``.

    Args:
        config: the stored settings.
        given: the environment that the person named, which is taken; or None.
        by: how it is named, for the message.

    Raises:
        InputError: if it is one and the person named none or another.
    """
    env = config.task.env
    if env is not None and ":" in env and env != given:
        raise InputError(
            f"the stored settings name the environment {env!r}, for which a module would be "
            f"imported; if you trust it, give {by}{env} too"
        )


def read_yaml(path: Path) -> Any:
    """What a YAML file holds, with no alias, for they can make a small file endless.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ValueError(f"it is larger than {_LARGEST_FILE >> 20} MiB")
        return yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {path}: {first_line(error)}") from None


class _PlainLoader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it has YAML aliases")
        return super().compose_node(parent, index)


def _check_plain(value: Any, name: str) -> None:
    if isinstance(value, dict):
        for key, entry in value.items():
            inner = f"{name}.{key}" if name else str(key)
            _check_plain(str(key), inner)
            _check_plain(entry, inner)
    elif isinstance(value, list):
        for entry in value:
            _check_plain(entry, name)
    elif value is not None and type(value) not in (str, bool, int, float):
        raise InputError(f"setting {name!r} is a {type(value).__name__}, not a plain value")
    elif isinstance(value, str) and "${" in value:
        raise InputError(
            f"setting {name!r} holds {value[:80]!r}: stored settings are plain values, with no "
            f"interpolation"
        )
