"""The ``key=value`` words that a user gives beside the settings' files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException


def word_by_word(words: Sequence[str]) -> list[str]:
    """The same with each entry of a mapping as a word of its own.

    Args:
        words: as hydra takes them; one that it refuses stays as it is.

    Examples:
        >>> from torchrl_td.config.words import word_by_word
        >>> word_by_word(["generator={width: 64, layers: 2}", "seed=3"])
        ['generator.width=64', 'generator.layers=2', 'seed=3']
    """
    found: list[str] = []
    for word in words:
        key, _, text = word.partition("=")
        found += _entries(key, _mapping(word)) if text.lstrip()[:1] == "{" else [word]
    return found


def setting_of(word: str) -> str:
    """The setting, or section, that a word gives.

    Args:
        word: as hydra takes it, with what adds or takes out before its key.

    Examples:
        >>> from torchrl_td.config.words import setting_of
        >>> setting_of("++seed=3"), setting_of("~logger")
        ('seed', 'logger')
    """
    return word.lstrip("+~").partition("=")[0]


def _mapping(word: str) -> Any:
    try:
        return OverridesParser.create().parse_override(word).value()
    except HydraException:
        return word.partition("=")[2]


def _entries(key: str, value: Any) -> list[str]:
    if isinstance(value, Mapping) and value:
        return [word for name, entry in value.items() for word in _entries(f"{key}.{name}", entry)]
    return [f"{key}={'null' if value is None else value}"]
