"""Collects finished runs for a comparison: results.json, learning curve, machine."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from torchrl_td.errors import InputError
from torchrl_td.experiment.logging import MetricsFile


def collect(folder: Path, algorithm: str) -> dict[str, Any]:
    """The results of a run's folder with the scores during training and the machine.

    Raises:
        InputError: there is no results.json, or it is another algorithm's.
    """
    path = folder / "results.json"
    try:
        summary = json.loads(path.read_text())
        found = summary["algorithm"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not the results of a finished run ({error})") from None
    if found != algorithm:
        raise InputError(f"{path} is of algorithm {found}, not {algorithm}; choose another runs=")
    summary.get("dataset", {}).pop("path", None)  # of one machine; the hash tells data apart
    return {**summary, "curves": curves(folder), "machine": machine()}


def curves(folder: Path) -> dict[str, list[list[float]]]:
    """By an entry's name: training seconds, score and its deviation, of each evaluation."""
    metrics, timing = (
        MetricsFile(folder / name, keep_until=sys.maxsize, read_only=True)
        for name in ("metrics.csv", "timing.csv")
    )
    times = dict(zip(*timing.series("time/seconds"), strict=True))
    found: dict[str, list[list[float]]] = {}
    for name in (c for c in metrics.columns if c.startswith("evaluation/score/")):
        steps, scores = metrics.series(name)
        deviations = metrics.series(name.replace("evaluation/score/", "evaluation/score_std/"))[1]
        rows = zip(steps, scores, deviations, strict=True)
        points = [[times[step], score, std] for step, score, std in rows if step in times]
        found[name.removeprefix("evaluation/score/")] = points
    return found


def machine() -> dict[str, Any]:
    """The processor and how many of its cores this machine has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return {"processor": (names or [platform.processor() or "unknown"])[0], "cores": os.cpu_count()}
