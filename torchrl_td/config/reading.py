"""From what hydra composed or a checkpoint holds to checked settings, and back."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from torchrl_td.config.checks import check_values
from torchrl_td.config.limits import FREE_FORM
from torchrl_td.config.settings import Config
from torchrl_td.errors import InputError, first_line

_HEADER = " (a file of settings begins with '# @package _global_')"


def check_config(config: DictConfig | dict[str, Any]) -> Config:
    """Checks keys, types, choices and ranges, and returns the settings as an object.

    Args:
        config: what hydra composed, or a dictionary read from a checkpoint.

    Returns:
        The settings, with what is not given at its default.

    Raises:
        InputError: at the first thing wrong, in one line that says what is allowed.

    Examples:
        >>> from torchrl_td.config import check_config
        >>> check_config({"preset": "small", "planner": {"refine_step": 2}})
        Traceback (most recent call last):
        ...
        torchrl_td.errors.InputError: unknown setting 'planner.refine_step'; allowed are ...
    """
    try:
        _check_keys(_plain(config), _known(), "")
        merged = OmegaConf.merge(_schema(), config)
        settings = OmegaConf.to_object(merged)
    except MissingMandatoryValue:
        missing = ", ".join(sorted(OmegaConf.missing_keys(merged)))
        raise InputError(f"settings without a value: {missing}") from None
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        says = first_line(error)
        raise InputError(f"setting {key!r}: {says}" if key else says) from None
    assert isinstance(settings, Config)
    check_values(settings)
    settings.dataset.source = settings.dataset.sources.get(
        settings.dataset.source, settings.dataset.source
    )
    return settings


@cache
def _schema() -> DictConfig:
    """The settings' keys and types, only to be read: to make it takes milliseconds."""
    schema = OmegaConf.structured(Config)
    OmegaConf.set_readonly(schema, True)
    return schema


@cache
def _known() -> dict[str, Any]:
    """The settings' keys, as nested dictionaries."""
    return _plain(_schema())


def _plain(config: DictConfig | dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries, with interpolations and missing values as they are written."""
    return config if isinstance(config, dict) else OmegaConf.to_container(config)  # type: ignore[return-value]


def override_config(config: Config, overrides: list[str] | dict[str, Any]) -> Config:
    """Settings with others in place of some, checked again.

    Args:
        config: the settings, which stay as they are.
        overrides: words such as ``planner.refine_steps=2``, of which the last of several
            counts, or values by key.

    Raises:
        InputError: if a word is not of that form, or a key or value is wrong.

    Examples:
        >>> from torchrl_td.config import Config, DatasetConfig, TaskConfig, override_config
        >>> task = TaskConfig(name="t", env="e")
        >>> config = Config(preset="small", task=task, dataset=DatasetConfig(source="s"))
        >>> override_config(config, ["planner.refine_steps=2"]).planner.refine_steps
        2
        >>> override_config(config, {"planner.evaluations": None}).planner.evaluations
    """
    if isinstance(overrides, dict):
        plain = {key: list(v) if isinstance(v, tuple) else v for key, v in overrides.items()}
        overrides = [f"{key}={'null' if v is None else v}" for key, v in plain.items()]
    for word in overrides:
        if "=" not in word:
            raise InputError(f"{word!r} is not of the form key=value")
    try:
        given = OmegaConf.from_dotlist(overrides)
    except Exception as error:  # yaml errors of many kinds
        raise InputError(f"cannot read {overrides}: {first_line(error)}") from None
    _check_keys(_plain(given), _known(), "")
    return check_config(OmegaConf.merge(to_dict(config), given))  # type: ignore[arg-type]


def to_dict(config: Config) -> dict[str, Any]:
    """The settings as plain dictionaries, as a checkpoint stores them.

    Args:
        config: the settings.

    Examples:
        >>> from torchrl_td.config import Config, to_dict
        >>> to_dict(Config())["planner"]["sampler"]
        'ddpm'
    """
    return asdict(config)


def _check_keys(given: Any, known: Any, prefix: str) -> None:
    name = prefix[:-1]
    if isinstance(given, DictConfig) or is_dataclass(given):  # a section of what Python gave
        given = OmegaConf.to_container(OmegaConf.create(given))  # type: ignore[arg-type]
    if isinstance(known, dict) and not isinstance(given, dict):
        raise InputError(f"setting {name!r} takes settings of its own, not {given!r}")
    if not isinstance(given, dict):
        return
    if not isinstance(known, dict):
        takes = "a list" if isinstance(known, list) else "one value, not several"
        hint = _HEADER if name == "preset" else ""
        raise InputError(f"setting {name!r} takes {takes}{hint}")
    if prefix in FREE_FORM:
        return
    for key, value in given.items():
        if key not in known:
            allowed = ", ".join(sorted(known))
            of_all = name and key in _known()
            hint = _HEADER if of_all else ""
            raise InputError(f"unknown setting '{prefix}{key}'{hint}; allowed are {allowed}")
        if value == "???":
            raise InputError(f"settings without a value: {prefix}{key}")
        if not isinstance(value, str) or "${" not in value:
            _check_keys(value, known[key], f"{prefix}{key}.")
