"""Whether two runs came to the same, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from torchrl_td.checkpoint import find_checkpoint, load_payload


def assert_same(left: Any, right: Any, where: str = "") -> None:
    """Bit for bit, down to every tensor."""
    assert type(left) is type(right), where
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left:
            assert_same(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right), where
        for number, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f"{where}[{number}]")
    elif isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and torch.equal(left, right), where
    else:
        assert left == right, where


def assert_same_run(one: Path, other: Path) -> None:
    """The same metrics, weights, optimiser, generators and scores; times may differ."""
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
    assert_same_state(one, other)
    assert_same_results(one, other)


def assert_same_state(one: Path, other: Path) -> None:
    """The same last checkpoint: weights, optimiser, generators."""
    first, second = find_checkpoint(one), find_checkpoint(other)
    assert first.name == second.name
    for part in ("planner", "training"):
        left, right = (dict(load_payload(path, part, "cpu")) for path in (first, second))
        left.pop("seconds", None), right.pop("seconds", None)
        assert_same(left, right, part)


def assert_same_results(one: Path, other: Path) -> None:
    results = [json.loads((path / "results.json").read_text())["results"] for path in (one, other)]
    for result in (entry for entries in results for entry in entries):
        del result["seconds_per_plan_median"], result["seconds_per_plan_p95"]
    assert results[0] == results[1]
