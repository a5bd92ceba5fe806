"""The tables of a comparison, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from torchrl_td.comparison.intervals import (
    bootstrap_mean,
    interquartile_mean,
    probability_of_improvement,
)
from torchrl_td.comparison.results import Result
from torchrl_td.data.source_info import source_info

ORIGINS = {
    "d4rl": "D4RL's files",
    "zoo": "regenerated from published agents (not D4RL's data)",
    "recorded": "recorded by this project",
    "minari": "Minari's recordings",
    "other": "other data",
}
REFINED = ", refined"
_WHERE = ("PointMaze", "AntMaze")  # environments whose score is time at the goal


class Row(NamedTuple):
    """One method on one task."""

    task: str
    method: str
    seeds: tuple[int, ...]  # of the rows of scores
    scores: np.ndarray  # [seeds, episodes]
    reached: float | None
    seconds: float | None  # of training, mean over seeds
    milliseconds: float | None  # a plan, median


def rows(results: Sequence[Result]) -> list[Row]:
    """One row a task and method, the seeds together, in the order of the results."""
    groups: dict[tuple[str, str], list[tuple[Result, Any]]] = {}
    for result in results:
        for entry in result["results"]:
            groups.setdefault((result["task"], method_of(result, entry)), []).append(
                (result, entry)
            )
    return [_row(task, method, group) for (task, method), group in groups.items()]


def method_of(result: Result, entry: dict[str, Any]) -> str:
    """What a table calls one entry of a result."""
    if result["preset"] is None:
        return str(result["algorithm"])
    if result["algorithm"] != "trajectory_diffuser":
        return f"{result['algorithm']} {result['preset']}"
    what = ", draft" if entry["name"] == "generator" else REFINED
    return f"planner {result['preset']}{what}"


def _row(task: str, method: str, group: Sequence[tuple[Result, Any]]) -> Row:
    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    group = sorted(group, key=lambda pair: pair[0]["seed"])
    entries = [entry for _, entry in group]
    plans = mean([entry["seconds_per_plan_median"] for entry in entries])
    return Row(
        task,
        method,
        tuple(result["seed"] for result, _ in group),
        np.array([entry["scores"] for entry in entries]),
        mean([entry.get("success_rate") for entry in entries]),
        mean([result["training_seconds"] for result, _ in group]),
        None if plans is None else 1e3 * plans,
    )


def markdown(results: Sequence[Result]) -> str:
    """The comparison as Markdown: a table a task, then over tasks, then what it was made with."""
    lines = ["# Comparison", ""]
    table = rows(results)
    for task in dict.fromkeys(row.task for row in table):
        mine = [row for row in table if row.task == task]
        lines += [*_task_lines(task, mine, [r for r in results if r["task"] == task]), ""]
    for origin in ORIGINS:
        tasks = {r["task"] for r in results if _origin(r) == origin}
        if tasks:
            lines += [*_over_tasks(origin, [row for row in table if row.task in tasks]), ""]
    lines += _made_with(results)
    return "\n".join(lines) + "\n"


def _task_lines(task: str, mine: Sequence[Row], results: Sequence[Result]) -> list[str]:
    data = next((r["dataset"] for r in results if r.get("dataset")), None)
    environment = results[0]["environment"]
    about = f"In {environment}. "
    if data is not None:
        about += (
            f"Data {ORIGINS[origin_of(data['source'])]}: {data['source']}, {data['transitions']} "
            f"transitions in {data['episodes']} episodes, hash {data['hash'][:8]}, mean score "
            f"{data['score_mean']:.1f}, best episode {data['score_best']:.1f}."
        )
    maze = any(name in environment for name in _WHERE)
    score = "score (D4RL's sum)" if maze else "score"
    lines = [
        f"## {task}",
        "",
        about,
        "",
        f"| method | {score} | 95 % interval | refined planner's lead, its interval | "
        "goal reached | seeds × episodes | training, s | ms a plan |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    refined = next((row for row in mine if row.method.endswith(REFINED)), None)
    for row in mine:
        low, high = bootstrap_mean(row.scores)
        reached = "" if row.reached is None else f"{100 * row.reached:.0f} %"
        seconds = "" if row.seconds is None else f"{row.seconds:.0f}"
        plan = "" if row.milliseconds is None else f"{row.milliseconds:.2f}"
        lines.append(
            f"| {row.method} | {row.scores.mean():.1f} ± {row.scores.std():.1f} | {low:.1f} to "
            f"{high:.1f} | {lead(refined, row)} | {reached} | {row.scores.shape[0]} × "
            f"{row.scores.shape[1]} | {seconds} | {plan} |"
        )
    return lines


def lead(refined: Row | None, row: Row) -> str:
    """By how much the refined planner is better, seed by seed and start by start.

    An empty text where the two have other seeds, as where a run failed, or other starts.
    """
    if refined is None or row is refined:
        return ""
    of_same_seeds = row.seeds == refined.seeds or row.seconds is None  # None: nothing was trained
    if not of_same_seeds or row.scores.shape[1] != refined.scores.shape[1]:
        return ""
    ahead = refined.scores - row.scores
    low, high = bootstrap_mean(ahead)
    return f"{ahead.mean():+.1f} ({low:+.1f} to {high:+.1f})"


def _origin(result: Result) -> str | None:
    return origin_of(result["dataset"]["source"]) if result.get("dataset") else None


def _over_tasks(origin: str, table: Sequence[Row]) -> list[str]:
    """Interquartile means of what was run on every task, and who improves on whom."""
    tasks = list(dict.fromkeys(row.task for row in table))
    by_method: dict[str, dict[str, Row]] = {}
    for row in table:
        by_method.setdefault(row.method, {})[row.task] = row
    runs = {
        method: np.stack([found[task].scores.mean(1) for task in tasks], 1)  # [seeds, tasks]
        for method, found in by_method.items()
        if found.keys() == set(tasks) and len({len(row.scores) for row in found.values()}) == 1
    }
    runs = {method: scores for method, scores in runs.items() if len(scores) > 1}
    if not runs:
        return [f"No method has several seeds on every task; data {ORIGINS[origin]}."]
    lines = [
        f"## Over {len(tasks)} task{'s' if len(tasks) > 1 else ''}, data {ORIGINS[origin]}",
        "",
        "Interquartile mean over tasks and seeds, with the 95 % stratified bootstrap interval.",
        "",
        "| method | interquartile mean | 95 % interval |",
        "| --- | --- | --- |",
    ]
    for method, scores in runs.items():
        point, (low, high) = interquartile_mean(scores)
        lines.append(f"| {method} | {point:.1f} | {low:.1f} to {high:.1f} |")
    ours = [method for method in runs if method.startswith("planner")]
    pairs = [(x, y) for x in ours for y in runs if y not in ours]
    if pairs:
        lines += ["", "Probability of improvement, with its 95 % interval.", ""]
        lines += ["| | over | probability | 95 % interval |", "| --- | --- | --- | --- |"]
    for x, y in pairs:
        point, (low, high) = probability_of_improvement(runs[x], runs[y])
        lines.append(f"| {x} | {y} | {point:.2f} | {low:.2f} to {high:.2f} |")
    return lines


def _made_with(results: Sequence[Result]) -> list[str]:
    versions = ", ".join(f"{name} {number}" for name, number in results[0]["versions"].items())
    machines = {f"{m['cores']} × {m['processor']}" for r in results if (m := r.get("machine"))}
    threads = sorted({str(r["threads"]) for r in results if "threads" in r})
    return [
        "Mean ± standard deviation over episodes; intervals of a task by drawing seeds, and their "
        "episodes, anew. Every method plays the same episodes; the lead is that of the same seed "
        "and start. The last checkpoint counts.",
        "",
        f"Made with {versions}; trained on {'; '.join(sorted(machines))}, threads "
        f"{', '.join(threads) or 'unknown'}.",
    ]


def origin_of(source: str) -> str:
    """Where data comes from, a key of ``ORIGINS``; scores of two of them are never one column."""
    kind, _, name = source.partition(":")
    if kind == "d4rl":  # a file of one's own may have its form
        return "other" if source_info(source).ref_max_score is None else "d4rl"
    if kind == "minari":
        space = name.split("/")[0]
        return {"zoo": "zoo", "pointmaze": "recorded", "maze2d": "recorded"}.get(space, "minari")
    return "other"
