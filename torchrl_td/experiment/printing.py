"""What a run came to, as a table on stdout."""

from __future__ import annotations

import sys
from typing import Any

from torchrl_td.experiment.streams import write_to

# What a table calls a planner's entries in results.json.
_NAMES = {"generator": "planner, generator alone", "refined": "planner, refined"}


def print_results(summary: dict[str, Any], *beside: dict[str, Any]) -> None:
    """Prints a summary as a table on stdout, and the results of others below its own."""
    if not summary["results"]:
        _print_unplayed(summary)
        return
    rows = [("policy", "refine steps", "score", "return", "ms a plan", "p95", "success")]
    for result in [r for one in (summary, *beside) for r in one["results"]]:
        returns = result["returns"]
        success = result["success_rate"]
        rows.append(
            (
                _NAMES.get(result["name"], result["name"]),
                "" if result["refine_steps"] is None else str(result["refine_steps"]),
                f"{result['score_mean']:.1f} ± {result['score_std']:.1f}",
                f"{sum(returns) / len(returns):.1f}",
                f"{1e3 * result['seconds_per_plan_median']:.1f}",
                f"{1e3 * result['seconds_per_plan_p95']:.1f}",
                "" if success is None else f"{100 * success:.0f} %",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = _heading(summary, f", {summary['results'][0]['episodes']} episodes")
    for row in rows:
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    write_to(sys.stdout, "\n".join(lines) + "\n")


def _heading(summary: dict[str, Any], played: str = "") -> list[str]:
    dataset, environment = summary["dataset"], summary["environment"]
    where = f" in {environment}" if environment else ""
    return [
        f"{summary['task']}{where}, {_method(summary)}, "
        f"seed {summary['seed']}, {summary['training_steps']} training steps{played}",
        f"data: mean score {dataset['score_mean']:.1f}, best episode {dataset['score_best']:.1f}",
    ]


def _print_unplayed(summary: dict[str, Any]) -> None:
    """The end of a run that has no environment, or does not play it."""
    losses = {k.removeprefix("loss_"): v for k, v in summary["validation"].items()}
    shown = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
    lines = [
        *_heading(summary),
        f"nothing was played ({summary['nothing_played']})",
        f"losses on held-out episodes: {shown or 'none were held out'}",
    ]
    write_to(sys.stdout, "\n".join(lines) + "\n")


def _method(summary: dict[str, Any]) -> str:
    preset = summary["preset"]
    return f"preset {preset}" if preset else f"algorithm {summary['algorithm']}"
