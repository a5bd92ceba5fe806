"""The training benchmark in miniature: it runs, adds up, and its two loops learn the same thing."""

from __future__ import annotations

import importlib.util
import json
import mmap
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from torchrl_td.training.products import _onednn_is_faster
from torchrl_td.training.trainer import Trainer

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "training_speed.py"
TINY = ("generator.width=16", "generator.layers=1", "refiner.channels=8", "training.batch_size=3")
MAZE, GYM = "maze2d/umaze", "hopper/medium-expert"  # asked for scores and for returns


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("training_speed", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("preset", "task", "value"),
    [("small", GYM, set()), ("strided", GYM, {"returns_limit"}), ("strided", MAZE, {"plan_value"})],
)
def test_reports_where_the_time_goes(
    preset: str,
    task: str,
    value: set[str],
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    words = ["--presets", preset, "--task", task, "--devices", "cpu", "--threads", "1"]
    output = tmp_path / "speed.json"
    monkeypatch.setattr(
        sys, "argv", ["speed", *words, "--steps", "2", "--json", str(output), *TINY]
    )
    script.main()
    assert "steps/s" in capsys.readouterr().out
    (row,) = json.loads(output.read_text())
    assert row["steps_per_second"] > 0 and row["peak_memory_mib"] > 0
    parts = {"generator", "refiner", "inverse_dynamics", "sampling", "preparing", "optimiser"}
    assert row["share"].keys() == parts | value
    chosen = preset == "strided" and _onednn_is_faster()
    assert (row["times_default_products"] is not None) == chosen
    assert (row["times_straightforward"] is None) == (preset == "strided")
    assert sum(row["share"].values()) == pytest.approx(1)
    assert row["parameters"]["refiner"] > 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_peak_memory_is_that_of_a_row(script: ModuleType) -> None:
    """Not that of the larger row before it."""
    device, size = torch.device("cpu"), 64 * 2**20
    with mmap.mmap(-1, size) as memory:  # given back for certain, as an allocator's is not
        memory.write(bytes(size))
    before = script.peak_memory(device)
    script.forget_peak_memory(device)
    after = script.peak_memory(device)
    assert after < before - 32
    with mmap.mmap(-1, size) as memory:
        memory.write(bytes(size))
    assert script.peak_memory(device) > after + 32


def test_a_cuda_graph_is_for_the_rows_of_a_gpu(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    words = ["--presets", "small", "--devices", "cpu", "--steps", "1", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["speed", *words, *TINY, "training.cudagraph=true"])
    script.main()
    assert "small      hopper/medium-expert cpu" in capsys.readouterr().out


def test_the_straightforward_loop_cuts_the_same_windows(script: ModuleType) -> None:
    config = script.settings("small", GYM, ["task.horizon=8", *TINY])
    trainer = Trainer(config, script.random_episodes(3, 2, steps=5000), torch.device("cpu"))
    plain = script.StraightforwardLoop(trainer).batch()
    ours = trainer.buffer.sample()
    assert plain.shape == ours.shape == (3, 14)
    number = trainer.buffer.storage.get(slice(0, 5000))["episode"]  # of each row's episode
    for episode, mask in (
        (plain["episode"], plain["mask"]),
        (number[ours["index"]], ours["mask"]),
    ):
        assert mask[:, 6].all()  # the present
        assert ((episode == episode[:, 6:7]) | ~mask).all()
