"""A comparison as a picture: the score against the seconds of training, a panel a task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from torchrl_td.comparison.intervals import bootstrap_mean
from torchrl_td.comparison.results import Result
from torchrl_td.comparison.tables import Row, method_of, rows

_COLUMNS = 3  # panels side by side
_LEAST_RANGE = 100.0  # of the score's axis: a difference of a point is not to fill the picture


def plot_comparison(results: Sequence[Result], path: Path) -> None:
    """Writes the picture; bars are 95 % intervals, lines the scores during training.

    Args:
        results: as :func:`torchrl_td.comparison.results.read_result` reads them.
        path: the PNG file.
    """
    table = rows(results)
    tasks = list(dict.fromkeys(row.task for row in table))
    methods = list(dict.fromkeys(row.method for row in table))
    colors = {method: plt.get_cmap("tab10")(i % 10) for i, method in enumerate(methods)}
    columns = min(len(tasks), _COLUMNS)
    lines = math.ceil(len(tasks) / columns)
    figure, axes = plt.subplots(lines, columns, figsize=(5 * columns, 4.2 * lines), squeeze=False)
    for axis in axes.flat[len(tasks) :]:
        axis.remove()
    for axis, task in zip(axes.flat, tasks, strict=False):
        for row in (row for row in table if row.task == task):
            _draw(axis, row, colors[row.method])
        for method, points in curves([r for r in results if r["task"] == task]).items():
            axis.plot(*points, color=colors.get(method), alpha=0.6, lw=1.2)
        axis.set_ylim(*score_range(axis.get_ylim()))
        axis.set(title=task, xlabel="training, seconds", ylabel="score")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw(axis: Axes, row: Row, color: Any) -> None:
    mean = float(row.scores.mean())
    low, high = bootstrap_mean(row.scores)
    if row.seconds is None:  # nothing was trained: a line from left to right
        axis.axhline(mean, color=color, ls="--", label=row.method)
        axis.axhspan(low, high, color=color, alpha=0.1)
        return
    bars = [[mean - low], [high - mean]]
    axis.errorbar(row.seconds, mean, bars, fmt="o", capsize=4, color=color, label=row.method)


def score_range(limits: tuple[float, float]) -> tuple[float, float]:
    """A score axis that holds 0 and spans a hundred points at least.

    >>> score_range((41.2, 42.1))
    (0.0, 100.0)
    """
    low, high = min(0.0, limits[0]), max(0.0, limits[1])
    return low, max(high, low + _LEAST_RANGE)


def curves(results: Sequence[Result]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Seconds and scores of the evaluations during training, means over seeds."""
    found: dict[str, list[np.ndarray]] = {}
    for result in results:
        for name, points in result.get("curves", {}).items():
            if len(points) > 1:
                method = method_of(result, {"name": name})
                found.setdefault(method, []).append(np.array(points)[:, :2])
    means = {}
    for method, seeds in found.items():
        count = min(len(points) for points in seeds)
        mean = np.mean([points[:count] for points in seeds], 0)
        means[method] = (mean[:, 0], mean[:, 1])
    return means
