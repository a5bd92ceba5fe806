"""Scores over seeds and tasks, from the results.json files of many runs.

    python benchmarks/aggregate.py outputs/*/results.json --json scores.json

One row a task: mean ± standard deviation over training seeds, each seed counted by the mean of
its episodes. One row a method: the interquartile mean over tasks and seeds with its 95 %
stratified bootstrap interval (rliable). Data of different origin (D4RL's files, Minari's
recordings, regenerated ``zoo`` data, data recorded here) are different tables, and an
environment's version is part of a task's name, so that no column mixes them. Runs of one preset
that differ in a setting, the planner's included, or in the data are methods of their own, whose
names tell the difference.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchrl_td.errors import InputError
from torchrl_td.experiment.cli import main as run_program
from torchrl_td.experiment.finished_runs import ORIGINS, Run, read_runs


def aggregate(paths: Iterable[str | Path], reps: int = 2000) -> dict[str, Any]:
    """Scores a task and scores a method, each table for data of one origin.

    Args:
        paths: results.json files.
        reps: bootstrap repetitions.

    Returns:
        For each origin ``tasks`` (rows with ``task``, ``method``, ``seeds``, ``episodes``,
        ``score_mean``, ``score_std``, ``success_rate``) and ``methods`` (rows with ``method``,
        ``tasks``, ``seeds``, ``iqm``, ``interval``), JSON-compatible.

    Raises:
        InputError: a file is no result, runs of other steps or target returns would be averaged, or
            a method's tasks have not the same seeds.
    """
    runs = read_runs(paths)
    tables: dict[str, Any] = {}
    for origin in ORIGINS:
        mine = [run for run in runs if run.origin == origin]
        if mine:
            methods = sorted({run.method for run in mine})
            tables[origin] = {
                "tasks": [
                    row
                    for method in methods
                    for row in _task_rows([run for run in mine if run.method == method])
                ],
                "methods": [
                    _method_row([run for run in mine if run.method == method], reps)
                    for method in methods
                ],
            }
    return tables


def _task_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One method's rows, mean ± std over seeds."""
    rows = []
    for task in sorted({run.task for run in runs}):
        mine = [run for run in runs if run.task == task]
        for run in mine[1:]:
            for name, other in run.fixed.items():
                if (one := mine[0].fixed[name]) != other:
                    raise InputError(
                        f"{run.path}: {name} is {other}, but {one} in {mine[0].path}; only runs "
                        f"that differ in the seed alone are averaged ({task}, {run.method})"
                    )
        scores = np.array([run.score for run in mine])
        successes = [run.success_rate for run in mine if run.success_rate is not None]
        rows.append(
            {
                "task": task,
                "method": mine[0].method,
                "seeds": len(mine),
                "episodes": sum(run.episodes for run in mine),
                "score_mean": float(scores.mean()),
                "score_std": float(scores.std()),
                "success_rate": float(np.mean(successes)) if successes else None,
            }
        )
    return rows


def _method_row(runs: Sequence[Run], reps: int) -> dict[str, Any]:
    """One method's interquartile mean over seeds and tasks, with its interval."""
    tasks = sorted({run.task for run in runs})
    seeds = {task: sorted(run.seed for run in runs if run.task == task) for task in tasks}
    counts = {len(found) for found in seeds.values()}
    if len(counts) > 1:
        few = min(tasks, key=lambda task: len(seeds[task]))
        raise InputError(
            f"{runs[0].method}: {few} has {len(seeds[few])} seeds, another task {max(counts)}; "
            "run the missing ones or leave files out"
        )
    scores = np.array(
        [
            [run.score for run in sorted(runs, key=lambda r: r.seed) if run.task == task]
            for task in tasks
        ]
    ).T  # [seeds, tasks]
    iqm, interval = interquartile_mean(scores, reps)
    return {
        "method": runs[0].method,
        "tasks": len(tasks),
        "seeds": counts.pop(),
        "iqm": iqm,
        "interval": interval,
    }


def interquartile_mean(
    scores: np.ndarray, reps: int = 2000, seed: int = 0
) -> tuple[float, list[float]]:
    """Mean of the middle half of ``scores`` [seeds, tasks], and its 95 % bootstrap interval.

    The bootstrap is stratified: seeds are drawn anew within each task. With one seed there is
    nothing to draw from, and the interval is the mean itself.

    Raises:
        InputError: rliable is not installed, or does not import.
    """
    try:
        from rliable import library, metrics
    except (ImportError, TypeError) as error:  # a TypeError: arch 7 with pandas 3
        raise InputError(
            f"interquartile means need rliable ({error}); pip install 'torchrl_td[report]' with "
            "pandas < 3"
        ) from error

    def statistic(values: np.ndarray) -> np.ndarray:
        return np.array([metrics.aggregate_iqm(values)])

    before = np.random.get_state()
    np.random.seed(seed)  # rliable draws from NumPy's global state, whatever it is given
    try:
        points, intervals = library.get_interval_estimates({"scores": scores}, statistic, reps=reps)
    finally:
        np.random.set_state(before)
    low, high = intervals["scores"][:, 0]
    return float(points["scores"][0]), [float(low), float(high)]


def written(tables: dict[str, Any]) -> str:
    """The tables as text."""
    lines = []
    for origin, table in tables.items():
        rows = [("task", "method", "seeds", "episodes", "score", "success")]
        for row in table["tasks"]:
            success = row["success_rate"]
            rows.append(
                (
                    row["task"],
                    row["method"],
                    str(row["seeds"]),
                    str(row["episodes"]),
                    f"{row['score_mean']:.1f} ± {row['score_std']:.1f}",
                    "" if success is None else f"{100 * success:.0f} %",
                )
            )
        lines += [f"Data: {ORIGINS[origin]}", *_aligned(rows)]
        for row in table["methods"]:
            low, high = row["interval"]
            lines.append(
                f"interquartile mean of {row['tasks']} tasks, {row['seeds']} seeds each, "
                f"{row['method']}: {row['iqm']:.1f} (95 % interval {low:.1f} to {high:.1f})"
            )
        lines.append("")
    return "\n".join(lines)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def program() -> None:
    """Read the files named on the command line and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="+", type=Path, help="results.json files")
    parser.add_argument("--json", type=Path, help="write the tables there too")
    parser.add_argument("--reps", type=int, default=2000, help="bootstrap repetitions")
    options = parser.parse_args()
    tables = aggregate(options.results, options.reps)
    sys.stdout.write(written(tables))
    if options.json is not None:
        options.json.write_text(json.dumps(tables, indent=2) + "\n")


if __name__ == "__main__":
    run_program(program)
