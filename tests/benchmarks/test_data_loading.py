"""The loading benchmark, in miniature: what it writes and measures is real."""

from __future__ import annotations

import importlib.util
import mmap
from pathlib import Path
from types import ModuleType

import h5py
import minari
import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "data_loading.py"


@pytest.fixture(scope="module")
def benchmark_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_data_loading", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lengths_add_up(benchmark_script: ModuleType) -> None:
    lengths = benchmark_script.episode_lengths(12_345, np.random.default_rng(0))
    assert sum(lengths) == 12_345 and max(lengths) <= 1000


def test_d4rl_file(benchmark_script: ModuleType, tmp_path: Path) -> None:
    benchmark_script.write_d4rl(tmp_path / "file.hdf5", 5000)
    with h5py.File(tmp_path / "file.hdf5") as file:
        shapes = {key: file[key].shape for key in file}
        ends = file["terminals"][:] | file["timeouts"][:]
        assert all(file[key][:].any() for key in file if key != "timeouts")
    assert shapes == {
        "observations": (5000, 11),
        "next_observations": (5000, 11),
        "actions": (5000, 3),
        "rewards": (5000,),
        "terminals": (5000,),
        "timeouts": (5000,),
    }
    assert ends[-1]


def test_minari_dataset(
    benchmark_script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    benchmark_script.write_minari(tmp_path, 3000)
    dataset = minari.load_dataset(benchmark_script.DATASET)
    assert dataset.total_steps == 3000
    for episode in dataset.iterate_episodes():
        assert episode.observations.shape == (len(episode.rewards) + 1, 11)


def test_memory_watch_sees_what_is_allocated(benchmark_script: ModuleType) -> None:
    watch = benchmark_script.MemoryWatch()
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with watch:
        # From the system: an allocator may have that much left over from an earlier test.
        block = mmap.mmap(-1, 64_000_000, flags=private)
        np.frombuffer(block, np.uint8)[:] = 1  # touched
    assert len(block) == 64_000_000  # so that it still lived at the end of the with
    assert 60e6 < watch.private < 120e6 and watch.total >= 60e6


def test_sampling_row(benchmark_script: ModuleType) -> None:
    row = benchmark_script.sampling(3000, 10)
    assert row["transitions"] == 3000 and row["window"] == 30
    assert 0 < row["median_ms"] <= row["p95_ms"]
