"""Results of a comparison's runs: read, and refused where they are not of one experiment."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torchrl_td.config import Config
from torchrl_td.errors import InputError

_NEEDED = ("algorithm", "preset", "task", "environment", "seed", "settings", "versions", "results")
_ENTRY = ("seconds_per_plan_median",)
_DATA = ("source", "transitions", "episodes", "hash", "score_mean", "score_best")
# Algorithms that read the target return: what others score is the same whatever it is.
_ASKED = (
    "trajectory_diffuser",
    "decision_diffuser",
    "rcbc",
    "rcbc_modulated",
    "rcbc_ensemble",
    "dt",
)

Result = dict[str, Any]


def read_result(path: Path) -> Result:
    """One file of a comparison.

    Raises:
        InputError: it is half-written or something else.
    """
    try:
        result = json.loads(path.read_text())
        missing = [key for key in _NEEDED if key not in result]
        entries = [
            (entry["scores"], entry["returns"], entry["name"]) for entry in result["results"]
        ]
        if missing or not entries or any(len(s) != len(r) or not s for s, r, _ in entries):
            raise KeyError(missing[0] if missing else "results")
        if not isinstance(result["settings"], dict):
            raise TypeError("settings is no mapping")
        if not isinstance(result["settings"].get("evaluation"), dict):
            raise KeyError("settings.evaluation")
        data = result.get("dataset") or dict.fromkeys(_DATA)
        lacking = [f"dataset.{key}" for key in _DATA if key not in data]
        lacking += [key for entry in result["results"] for key in _ENTRY if key not in entry]
        if lacking:
            raise KeyError(lacking[0])
        count = result["settings"]["evaluation"].get("episodes")
        if count is not None and any(len(scores) != count for scores, _, _ in entries):
            raise ValueError(f"it has not the {count} episodes that it names")
        if not all(math.isfinite(number) for s, r, _ in entries for number in (*s, *r)):
            raise ValueError("a score is no number")
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{path}: not a whole result ({reason}); remove it to make it anew"
        ) from None
    return result


def check_comparable(results: Sequence[tuple[str, Result]]) -> None:
    """Refuses results that are not of one experiment.

    Args:
        results: file and content of each.

    Raises:
        InputError: at the first difference, naming both files.
    """
    groups = (
        ("versions", lambda r: "all", lambda r: r["versions"]),
        ("environment", lambda r: r["task"], lambda r: r["environment"]),
        ("data", lambda r: r["task"], lambda r: r.get("dataset", {}).get("hash")),
        ("episodes", lambda r: r["task"], _protocol),
        ("settings", lambda r: (r["task"], r["algorithm"], r["preset"]), _trained),
    )
    for what, group, value in groups:
        seen: dict[Any, tuple[str, Any]] = {}
        for path, result in results:
            mine = value(result)
            if mine is None:
                continue  # the controller learns from no data
            first, theirs = seen.setdefault(group(result), (path, mine))
            if mine != theirs:
                raise InputError(
                    f"{path} is of other {what} than {first}: {_difference(mine, theirs)}; move "
                    f"one of them away to run it anew"
                )


def _protocol(result: Result) -> dict[str, Any]:
    evaluation = result["settings"]["evaluation"]
    return {key: evaluation.get(key) for key in ("episodes", "seed")}


def settings_read(result: Result) -> dict[str, Any]:
    """A result's settings without those of the parts that are switched off.

    Settings, and whole parts, that are newer than the result have their default, which is what was
    done before.
    """
    defaults = asdict(Config())
    parts = (name for name, values in defaults.items() if isinstance(values, dict))
    read = {name: {"enabled": False} for name in parts if defaults[name].get("enabled") is False}
    for section, values in result["settings"].items():
        if isinstance(values, dict):
            off = values.get("enabled") is False
            values = {"enabled": False} if off else {**defaults.get(section, {}), **values}
        read[section] = values
    return read


def return_asked(result: Result) -> float | None:
    """The target return, of an algorithm that is asked for one."""
    return result.get("target_return") if result["algorithm"] in _ASKED else None


def _trained(result: Result) -> dict[str, Any]:
    played = {"settings": settings_read(result), "target_return": return_asked(result)}
    # A run that may lose patience ends at a step of its own.
    patience = result["settings"].get("training", {}).get("patience")
    steps = ("training_steps",) if patience is None else ()
    return played | {key: result.get(key) for key in ("planner", "init_from", *steps)}


def _difference(mine: Any, theirs: Any) -> str:
    if not isinstance(mine, dict) or not isinstance(theirs, dict):
        return f"{mine}, not {theirs}"
    key = next(k for k in sorted(mine.keys() | theirs.keys()) if mine.get(k) != theirs.get(k))
    inner = _difference(mine.get(key), theirs.get(key))
    return f"{key} {inner}" if "," in inner else inner
