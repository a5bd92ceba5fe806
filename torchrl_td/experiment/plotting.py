"""The pictures a run leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle
from tensordict import TensorDictBase
from torchrl import torchrl_logger

from torchrl_td.errors import InputError, first_line
from torchrl_td.experiment.logging import MetricsFile
from torchrl_td.experiment.run_folder import new_file

_HISTORY, _DRAFT, _REFINED, _WALKED = "#8a8f98", "#e08a1e", "#2b6cb0", "#9ad0a8"
_FEW_STATES = 10


@contextmanager
def skipped_on_error(path: Path) -> Iterator[None]:
    """Around the making of a picture, which, if it fails, costs the picture and not the run."""
    try:
        yield
    except (OSError, InputError) as error:
        reason = first_line(error)
        if isinstance(error, OSError):
            reason = f"{error.strerror or reason}; free some space or make the folder writable"
        torchrl_logger.warning(f"no {path}: {reason}")
        with suppress(OSError):
            path.unlink(missing_ok=True)  # half of it


def plot_training(metrics: MetricsFile, path: Path, episodes: int) -> None:
    """Losses and scores against training steps.

    Args:
        metrics: of the run.
        path: the picture to write.
        episodes: behind each score, for the bars of its 95 % interval.
    """
    losses = [c for c in metrics.columns if c.startswith("train/loss_")]
    scores = [c for c in metrics.columns if c.startswith("evaluation/score/")]
    count = len(losses) + bool(scores)
    if count == 0:
        count = 1  # an empty picture says so
    figure, axes = plt.subplots(1, count, figsize=(4 * count, 3.2), squeeze=False)
    for axis, name in zip(axes[0], losses, strict=False):
        axis.plot(*metrics.series(name), color=_REFINED, label="training")
        steps, values = metrics.series(name.replace("train/", "validation/"))
        if steps:
            axis.plot(steps, values, color=_DRAFT, marker=".", label="held-out episodes")
        steps, values = metrics.series(name.replace("train/", "validation/") + "_ema")
        if steps:
            axis.plot(steps, values, color=_HISTORY, marker=".", label="with averaged weights")
        axis.legend(frameon=False)
        axis.set_yscale("log")
        axis.set_title(name.removeprefix("train/loss_").replace("_", " "))
    for name in scores:
        _draw_scores(axes[0, -1], metrics, name, episodes)
    scored = {step for name in scores for step in metrics.series(name)[0]}
    if len(scored) == 1:
        axes[0, -1].set_xticks(list(scored))  # ticks close about it would run into one another
    for axis in axes[0]:
        axis.set_xlabel("training step")
        axis.grid(alpha=0.3)
    _save(figure, path)


def _draw_scores(axis: Axes, metrics: MetricsFile, name: str, episodes: int) -> None:
    steps, scores = metrics.series(name)
    deviations = metrics.series(name.replace("evaluation/score/", "evaluation/score_std/"))[1]
    bars = 1.96 * np.array(deviations or [0.0]) / np.sqrt(episodes)
    label = name.removeprefix("evaluation/score/")
    axis.errorbar(steps, scores, bars, marker="o", capsize=3, label=label)
    low, high = axis.get_ylim()  # no longer widened by itself where another score set it
    ends = np.array([np.array(scores) - bars, np.array(scores) + bars])
    # From 0, and to 100 at least: a difference of a point is not to fill the picture.
    axis.set_ylim(min(low, 0.0, 1.05 * ends.min()), max(high, 100.0, 1.05 * ends.max()))
    axis.set_title("score, with its 95 % interval")
    axis.legend(frameon=False)


def plot_plans(rollout: TensorDictBase, path: Path, env: Any, count: int = 4) -> None:
    """Plans at a few moments of one episode: history, draft, refined plan, what followed.

    In a maze seen from above, with its walls and the goal; elsewhere the four state
    dimensions that vary most, over time.

    Args:
        rollout: one environment's steps [T] with ``observation`` and ``plan``.
        path: the picture to write.
        env: the (unwrapped) Gymnasium environment, asked for a maze.
        count: how many moments.
    """
    maze = getattr(env, "maze", None)
    length = rollout.shape[0]
    horizon = rollout["plan", "refined"].shape[-2]
    done = rollout["next", "done"].squeeze(-1).nonzero()
    end = int(done[0]) + 1 if len(done) else length
    moments = np.linspace(0, max(end - horizon, 1) * (0.33 if maze else 1.0), count).astype(int)
    if maze is not None:
        figure, axes = plt.subplots(1, count, figsize=(3.6 * count, 4.2), squeeze=False)
        for axis, moment in zip(axes[0], moments, strict=True):
            draw_maze(axis, maze)
            _draw_maze_plan(axis, rollout, int(moment), end)
            axis.set_title(f"step {moment}")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=6, frameon=False)
        _save(figure, path, rect=(0, 0.08, 1, 0.97))
        return
    states = rollout["observation"][:end]
    chosen = states.std(0).argsort(descending=True)[:4].sort().values.tolist()
    figure, axes = plt.subplots(len(chosen), count, figsize=(3.2 * count, 7), squeeze=False)
    for row, dimension in enumerate(chosen):
        for axis, moment in zip(axes[row], moments, strict=True):
            _draw_state_plan(axis, rollout, int(moment), dimension, end)
    for axis, moment in zip(axes[0], moments, strict=True):
        axis.set_title(f"step {moment}")
    for row, dimension in enumerate(chosen):
        axes[row, 0].set_ylabel(f"state {dimension}")
    axes[0, 0].legend(frameon=False, fontsize=7)
    _save(figure, path)


def draw_frame(rollout: TensorDictBase, moment: int, maze: Any) -> np.ndarray:
    """A maze from above at one step of a rollout [T]: the walk so far, the goal and the plan.

    Returns:
        Pixels [height, width, 3] of bytes.
    """
    figure, axis = plt.subplots(figsize=(4, 4 * maze.map_width / maze.map_length), dpi=80)
    draw_maze(axis, maze)
    _draw_maze_plan(axis, rollout, moment, moment + 1, first=0)
    figure.tight_layout()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return pixels


def draw_maze(axis: Axes, maze: Any) -> None:
    """The walls of a maze, seen from above."""
    size = maze.maze_size_scaling
    for i, row in enumerate(maze.maze_map):
        for j, cell in enumerate(row):
            if cell == 1:
                x, y = maze.cell_rowcol_to_xy(np.array([i, j]))
                corner = (x - size / 2, y - size / 2)
                axis.add_patch(Rectangle(corner, size, size, color="#3d4350"))
    half_width, half_height = maze.map_length * size / 2, maze.map_width * size / 2
    axis.set_xlim(-half_width, half_width)
    axis.set_ylim(-half_height, half_height)
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])


def _draw_maze_plan(
    axis: Axes, rollout: TensorDictBase, moment: int, end: int, first: int | None = None
) -> None:
    states = rollout["observation"].numpy()
    draft = rollout["plan", "draft"][moment].numpy()
    refined = rollout["plan", "refined"][moment].numpy()
    first = max(0, moment - len(draft) + 2) if first is None else first
    walked = states[moment : min(moment + len(draft), end)]
    # A plan of few states, some steps apart, is shown with its states.
    dots: dict[str, Any] = {"marker": "o", "ms": 3.5} if len(draft) <= _FEW_STATES else {}
    axis.plot(*walked[:, :2].T, color=_WALKED, lw=6, alpha=0.8, label="walked", zorder=2)
    past = states[first : moment + 1]
    axis.plot(*past[:, :2].T, color=_HISTORY, lw=2, label="history", zorder=3)
    axis.plot(*draft[:, :2].T, color=_DRAFT, lw=1.8, label="draft", zorder=4, **dots)
    style: dict[str, Any] = {"color": _REFINED, "lw": 1.4, "ls": "--", **dots}
    axis.plot(*refined[:, :2].T, label="refined", zorder=5, **style)
    axis.plot(*states[moment, :2], "o", color="black", ms=4, label="present", zorder=6)
    goal = rollout["desired_goal"][moment].numpy()  # which the observation need not show
    axis.plot(*goal, "*", color="#d1345b", ms=13, label="goal", zorder=6)


def _draw_state_plan(
    axis: Axes, rollout: TensorDictBase, moment: int, dimension: int, end: int
) -> None:
    states = rollout["observation"][:, dimension].numpy()
    draft = rollout["plan", "draft"][moment, :, dimension].numpy()
    refined = rollout["plan", "refined"][moment, :, dimension].numpy()
    first, last = max(0, moment - len(draft) + 2), min(moment + len(draft), end)
    ahead = np.arange(moment, moment + len(draft))
    past = np.arange(first, moment + 1)
    axis.plot(np.arange(moment, last), states[moment:last], color=_WALKED, lw=4, label="walked")
    axis.plot(past, states[past], color=_HISTORY, label="history")
    axis.plot(ahead, draft, color=_DRAFT, label="draft")
    axis.plot(ahead, refined, color=_REFINED, ls="--", label="refined")


def _save(figure: Any, path: Path, **layout: Any) -> None:
    try:
        figure.tight_layout(**layout)
        with new_file(path) as file:
            figure.savefig(file, dpi=110, format="png")
    finally:
        plt.close(figure)
