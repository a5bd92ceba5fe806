"""From what hydra composed or a checkpoint holds to checked settings, and back."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from torchrl_td.config.checks import check_values
from torchrl_td.config.limits import FREE_FORM
from torchrl_td.config.settings import Config
from torchrl_td.errors import InputError, first_line


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
    schema = _schema()
    try:
        given = OmegaConf.create(config) if isinstance(config, dict) else config
        _check_keys(given, schema, "")
        merged = OmegaConf.merge(schema, given)
        missing = OmegaConf.missing_keys(merged)
        if missing:
            raise InputError(f"settings without a value: {', '.join(sorted(missing))}")
        check_values(merged)
        settings = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        says = first_line(error)
        raise InputError(f"setting {key!r}: {says}" if key else says) from None
    assert isinstance(settings, Config)
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
        overrides = [f"{key}={'null' if v is None else v}" for key, v in overrides.items()]
    for word in overrides:
        if "=" not in word:
            raise InputError(f"{word!r} is not of the form key=value")
    try:
        given = OmegaConf.from_dotlist(overrides)
    except Exception as error:  # yaml errors of many kinds
        raise InputError(f"cannot read {overrides}: {first_line(error)}") from None
    base = OmegaConf.structured(config)
    _check_keys(given, base, "")
    return check_config(OmegaConf.to_container(OmegaConf.merge(to_dict(config), given)))  # type: ignore[arg-type]


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


def _check_keys(given: Any, schema: Any, prefix: str) -> None:
    name = prefix[:-1]
    if isinstance(schema, DictConfig) and not isinstance(given, DictConfig):
        raise InputError(f"setting {name!r} takes settings of its own, not {given!r}")
    if not isinstance(given, DictConfig):
        return
    if not isinstance(schema, DictConfig):
        takes = "a list" if isinstance(schema, ListConfig) else "one value, not several"
        raise InputError(f"setting {name!r} takes {takes}")
    if prefix in FREE_FORM:
        return
    known = set(schema.keys())  # "in" would miss those without a default
    for key in map(str, given):
        if key not in known:
            allowed = ", ".join(sorted(map(str, known)))
            of_all = name and key in _schema().keys()
            hint = " (a file of settings begins with '# @package _global_')" if of_all else ""
            raise InputError(f"unknown setting '{prefix}{key}'{hint}; allowed are {allowed}")
        if not OmegaConf.is_interpolation(given, key) and not OmegaConf.is_missing(given, key):
            schema_node = None if OmegaConf.is_missing(schema, key) else schema[key]
            _check_keys(given[key], schema_node, f"{prefix}{key}.")
