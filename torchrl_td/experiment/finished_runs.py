"""Results of finished runs, read again: what is one experiment's, and what another's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torchrl_td.config import PlannerConfig
from torchrl_td.errors import InputError

ORIGINS = {
    "d4rl": "D4RL's files",
    "zoo": "regenerated from published agents (not D4RL's data)",
    "recorded": "recorded by this project",
    "minari": "Minari's recordings",
    "other": "other data",
}
_FIXED = ("training_steps", "target_return", "guidance_scale", "candidates")


@dataclass(frozen=True)
class Run:
    """One seed of one method on one task.

    Attributes:
        origin: of the data, a key of ``ORIGINS``.
        task: its name and environment.
        method: preset and planner, and what sets the run apart from others of these.
        seed: of the training.
        score: mean of its episodes.
        episodes: how many.
        success_rate: where the environment reports success.
        fixed: what may not differ among seeds that are averaged.
        settings: all else that a score depends on; empty in results of older versions.
        path: its file.
    """

    origin: str
    task: str
    method: str
    seed: int
    score: float
    episodes: int
    success_rate: float | None
    fixed: dict[str, Any]
    settings: dict[str, Any]
    path: str


def read_runs(paths: Iterable[str | Path]) -> list[Run]:
    """Every entry of every results.json, as written by training or by a later evaluation.

    Runs of one task, preset and planner that differ in more than the seed get other methods.

    Args:
        paths: the files.

    Raises:
        InputError: a file cannot be read, holds no results, or repeats another's seed.

    Examples:
        >>> from torchrl_td.experiment.finished_runs import read_runs
        >>> read_runs(["none.json"])
        Traceback (most recent call last):
        ...
        torchrl_td.errors.InputError: none.json: not a results.json of a finished run (...)
    """
    runs: list[Run] = []
    for path in paths:
        try:
            summary = json.loads(Path(path).read_text())
            runs += [_run(summary, result, str(path)) for result in summary["results"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(f"{path}: not a results.json of a finished run ({reason})") from None
    runs = _told_apart(runs)
    seen: dict[tuple, str] = {}
    for run in runs:
        key = (run.origin, run.task, run.method, run.seed)
        if key in seen:
            raise InputError(
                f"{run.path}: seed {run.seed} of {run.task}, {run.method}, is in {seen[key]} too; "
                "give each seed once"
            )
        seen[key] = run.path
    if not runs:
        raise InputError("no results: give the results.json files of finished runs")
    return runs


def _run(summary: dict[str, Any], result: dict[str, Any], path: str) -> Run:
    source = summary["dataset"]["source"]
    planner = summary.get("planner", {})
    settings = {**planner, **summary}
    return Run(
        origin=_origin(source),
        task=f"{summary['task']} in {summary['environment']}",
        method=f"{summary['preset']}, {_planner(result['refine_steps'], planner)}",
        seed=int(summary["seed"]),
        score=float(result["score_mean"]),
        episodes=int(result["episodes"]),
        success_rate=result.get("success_rate"),
        fixed={key: settings.get(key) for key in _FIXED},
        settings=_flat(summary),
        path=path,
    )


def _flat(summary: dict[str, Any]) -> dict[str, Any]:
    """Settings by their whole names, and the data."""
    flat = {
        f"{section}.{name}": value
        for section, settings in summary.get("settings", {}).items()
        for name, value in settings.items()
    }
    return {**flat, "data": summary["dataset"]["hash"][:8]} if flat else {}


def _told_apart(runs: list[Run]) -> list[Run]:
    """Runs with what sets them apart from others of their task and method in the method's name."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault((run.origin, run.task, run.method), []).append(run)
    varying: dict[str, set[str]] = {}
    for (_, _, method), mine in groups.items():
        varying.setdefault(method, set()).update(_varying(mine))
    return [replace(run, method=_named(run, sorted(varying[run.method]))) for run in runs]


def _varying(runs: Sequence[Run]) -> set[str]:
    """Names of the settings in which runs of one task differ."""
    known = [run.settings for run in runs if run.settings]
    names = {key for settings in known for key in settings}
    differing = {key for key in names if any(s.get(key) != known[0].get(key) for s in known)}
    return differing | ({"settings"} if 0 < len(known) < len(runs) else set())


def _named(run: Run, varying: list[str]) -> str:
    if varying and not run.settings:
        return f"{run.method}, settings unknown"
    words = [f"{key}={run.settings.get(key)}" for key in varying if key != "settings"]
    return ", ".join([run.method, *words])


def _origin(source: str) -> str:
    kind, _, name = source.partition(":")
    if kind == "d4rl":
        return "d4rl"
    if kind == "minari":
        space = name.split("/")[0]
        return {"zoo": "zoo", "pointmaze": "recorded", "maze2d": "recorded"}.get(space, "minari")
    return "other"


def _planner(refine_steps: int, planner: dict[str, Any]) -> str:
    """The planner in words: what differs from the default beside the number of steps."""
    words = ["generator alone" if refine_steps == 0 else f"{refine_steps} refine steps"]
    default, apart = PlannerConfig(), ["refine_steps", "guidance_scale", "candidates"]
    if refine_steps == 0:
        apart += ["sampler", "evaluations", "init", "temperature", "add_noise"]  # the refiner's
    for field in fields(default):
        if field.name in apart:
            continue
        value = planner.get(field.name, getattr(default, field.name))
        if value != getattr(default, field.name):
            words.append(f"{field.name}={value}")
    return ", ".join(words)
