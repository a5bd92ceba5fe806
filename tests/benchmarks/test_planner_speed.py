"""Regressions of the planner's speed, at preset `paper`'s sizes for hopper, batch 1.

python -m pytest tests/benchmarks -n 0 --benchmark-enable --benchmark-autosave
python -m pytest tests/benchmarks -n 0 --benchmark-enable --benchmark-compare
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def variants_module() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import planner_variants
    finally:
        sys.path.remove(str(BENCHMARKS))
    return planner_variants


@pytest.fixture(scope="module")
def parts(variants_module: ModuleType):
    return variants_module.Parts("hopper", 1, torch.device("cpu"))


WAYS = {
    "plain": lambda parts: parts.cold("none"),
    "warm_ddim2": lambda parts: parts.warm("none", sampler="ddim", evaluations=2),
}


@pytest.mark.parametrize("way", WAYS)
def test_plan(benchmark, parts, way: str):
    variant = WAYS[way](parts)
    with torch.no_grad():
        benchmark.pedantic(variant.call, rounds=8, warmup_rounds=2)


def test_naive_and_fast_ways_plan_the_same(parts, variants_module: ModuleType):
    """What the benchmark compares is one and the same plan."""
    noise = torch.randn(parts.planner().noise_shape(1))
    parts.noise = lambda planner: noise
    with torch.no_grad():
        action = parts.naive().call()
        torch.testing.assert_close(WAYS["plain"](parts).call()[3], action, rtol=1e-4, atol=1e-5)


def test_counted_work(parts, variants_module: ModuleType):
    """By hand: a linear layer and a kernel of which three of five taps meet two positions."""
    count = variants_module.count_work
    linear, conv, double = (
        nn.Linear(4, 6),
        nn.Conv1d(3, 7, 5, padding=2),
        nn.ConvTranspose1d(2, 2, 4, stride=2, padding=1),
    )
    work = count(linear, lambda: linear(torch.randn(5, 4)))
    assert (work.operations, work.bytes) == (2 * 5 * 4 * 6, 4 * 4 * 6)
    work = count(conv, lambda: conv(torch.randn(2, 3, 2)))
    assert (work.operations, work.bytes) == (2 * 2 * 21 * 4, 4 * 21 * 3)
    work = count(double, lambda: double(torch.randn(1, 2, 3)))
    # Six outputs of two taps each, but for the two at the ends, which have one.
    assert (work.operations, work.bytes) == (2 * 4 * 10, 4 * 4 * 4)


@pytest.mark.slow
def test_the_script_in_miniature(
    variants_module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With networks of a few hundred weights in place of the paper's."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = importlib.import_module("planner_speed")
    monkeypatch.setitem(variants_module.SIZES, "tiny", (4, 3, 2, 1.2))
    transformer, unet = variants_module.TrajectoryTransformer, variants_module.TemporalUNet
    small = functools.partial(transformer, width=8, layers=1)
    monkeypatch.setattr(variants_module, "TrajectoryTransformer", small)
    monkeypatch.setattr(
        variants_module,
        "TemporalUNet",
        lambda dim, width=8, levels=(1, 2): unet(dim, width, levels),
    )
    asked: list[tuple[str, torch.dtype | None]] = []
    make_runner = variants_module.make_runner

    def uncompiled(planner: Any, mode: str, autocast: torch.dtype | None = None) -> Any:
        asked.append((mode, autocast))  # which tests/planner/test_openvino.py compares
        return make_runner(planner, "none", None)

    monkeypatch.setattr(variants_module, "make_runner", uncompiled)
    path = tmp_path / "speed.json"
    words = ["--sizes", "tiny", "--batch", "1", "--threads", "1", "--seconds", "0.01"]
    monkeypatch.setattr(sys, "argv", ["planner_speed.py", *words, "--json", str(path)])
    script.main()
    if variants_module.openvino_installed():
        assert {("openvino", None), ("openvino", torch.bfloat16)} < set(asked)
    rows = {row["variant"]: row for row in json.loads(path.read_text())}
    assert rows["naive"]["network_evaluations"] == 3 + 10
    assert rows["plain"]["network_evaluations"] == 3 + 5
    assert rows["warm_ddim2"]["network_evaluations"] == 1 + 2
    assert rows["decision_diffuser"]["network_evaluations"] == 100
    assert all(row["times_floor"] > 0.5 for name, row in rows.items() if name != "actor")
    assert {"size", "batch", "threads", "median_ms", "p95_ms", "processor_ms"} <= rows[
        "plain"
    ].keys()
