"""How long data takes to load, how much memory it needs, and what a batch of windows costs.

    python benchmarks/data_loading.py --json benchmarks/results/data_loading.json

Loading: random numbers of Hopper's sizes (11 observed, 3 actions, episodes of up to
1000 steps) are written as a D4RL file and as a Minari dataset, then loaded twice,
each time in a process of its own: the first fills the cache, the second opens it.
Memory is the process's largest resident set beyond what it was before the call, and
the part of it that is not mapped from files, which the system cannot drop.

Sampling: 32 windows through the replay buffer that training uses, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from tensordict import TensorDict

OBSERVATION, ACTION, LONGEST = 11, 3, 1000
LIMITS = {"first_s": 60.0, "second_s": 2.0, "memory_times_float32": 1.5, "window_batch_ms": 0.2}
PACKAGES = ("torch", "torchrl", "tensordict", "minari", "h5py", "numpy")
DATASET = "benchmark/hopper-v0"


def main() -> None:
    """Run the benchmark, print its table and write its JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--transitions", type=int, default=2_000_000, help="to load")
    parser.add_argument("--sizes", default="10000,100000,1000000", help="to sample from")
    parser.add_argument("--formats", default="d4rl,minari")
    parser.add_argument("--repeat", type=int, default=2000, help="batches sampled a size")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="for the data; a temporary one by default")
    parser.add_argument("--measure", metavar="SOURCE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.repeat < 1:
        parser.error("--repeat is to be 1 or more")
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    torch.set_num_threads(1)
    about = measured_on()  # before this adds to the load
    drawn = [sampling(int(size), options.repeat) for size in options.sizes.split(",") if size]
    loaded = []
    for kind in filter(None, options.formats.split(",")):
        loaded += loading(kind, options.transitions, options.folder)
    for rows in (drawn, loaded):
        print_table(rows)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        result = {"machine": about, "limits": LIMITS, "sampling": drawn, "loading": loaded}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def measured_on() -> dict[str, Any]:
    """What the numbers were measured on."""
    from torchrl_td.comparison.collecting import machine

    return {
        **machine(),
        "load_average": round(os.getloadavg()[0], 1),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def loading(kind: str, transitions: int, folder: Path | None) -> list[dict[str, Any]]:
    """Seconds and memory of the first and of the second loading of one format."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        # Everything the children write, the cache too, stays in here.
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MINARI_DATASETS_PATH": scratch,
            "TORCHRL_TD_CACHE": str(Path(scratch) / "cache"),
        }
        if kind == "d4rl":
            path = Path(scratch) / "hopper-random-numbers.hdf5"
            write_d4rl(path, transitions)
            source = f"d4rl:{path}"
        elif kind == "minari":
            write_minari(Path(scratch), transitions)
            source = f"minari:{DATASET}"
        else:
            raise SystemExit(f"unknown format {kind!r}: take d4rl or minari")
        rows = []
        for which in ("first", "second"):
            command = [sys.executable, str(Path(__file__).resolve()), "--measure", source]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"loading {kind} failed: {done.stderr.strip().splitlines()[-1]}")
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append({"format": kind, "time": which, "transitions": transitions, **row})
        return rows


def episode_lengths(transitions: int, rng: np.random.Generator) -> list[int]:
    """Lengths up to 1000 that add up to ``transitions``."""
    lengths: list[int] = []
    left = transitions
    while left:
        lengths.append(min(left, int(rng.integers(200, LONGEST + 1))))
        left -= lengths[-1]
    return lengths


def write_d4rl(path: Path, transitions: int) -> None:
    """A file in D4RL's layout, next observations included."""
    rng = np.random.default_rng(0)
    lengths = episode_lengths(transitions, rng)
    ends = np.cumsum(lengths) - 1
    truncated = np.array(lengths) == LONGEST
    with h5py.File(path, "w") as file:
        for key, width in (
            ("observations", OBSERVATION),
            ("next_observations", OBSERVATION),
            ("actions", ACTION),
            ("rewards", None),
        ):
            shape = (transitions,) if width is None else (transitions, width)
            data = file.create_dataset(key, shape, "float32")
            for start in range(0, transitions, 100_000):
                count = min(100_000, transitions - start)
                data[start : start + count] = rng.uniform(-1, 1, (count, *shape[1:]))
        for key, rows in (("terminals", ends[~truncated]), ("timeouts", ends[truncated])):
            flags = np.zeros(transitions, bool)
            flags[rows] = True
            file[key] = flags


def write_minari(folder: Path, transitions: int) -> None:
    """A Minari dataset of Hopper-v5's spaces, through Minari's own API."""
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    rng = np.random.default_rng(0)
    lengths = episode_lengths(transitions, rng)

    def episode(number: int, length: int) -> EpisodeBuffer:
        ended = np.zeros(length, bool)
        ended[-1] = True
        truncated = ended & (length == LONGEST)
        return EpisodeBuffer(
            id=number,
            observations=rng.standard_normal((length + 1, OBSERVATION)),
            actions=rng.uniform(-1, 1, (length, ACTION)).astype(np.float32),
            rewards=rng.standard_normal(length),
            terminations=ended & ~truncated,
            truncations=truncated,
        )

    env = gymnasium.make("Hopper-v5")
    buffers = [episode(i, length) for i, length in enumerate(lengths)]
    minari.create_dataset_from_buffers(
        DATASET,
        buffers,
        env=env,
        eval_env=env,
        algorithm_name="random numbers",
        description="Random numbers of Hopper's sizes, to measure loading.",
        author="none",
        author_email="none",
        code_permalink="none",
        data_format="hdf5",
    )
    env.close()


def measure(source: str) -> dict[str, Any]:
    """Load ``source`` in this process and say what it took."""
    from torchrl_td.data import load_episodes

    watch = MemoryWatch()
    with watch:
        start = time.perf_counter()
        episodes = load_episodes(source)
        seconds = time.perf_counter() - start
    float32 = 4 * len(episodes) * (2 * OBSERVATION + ACTION + 1)  # o, o', a, r
    return {
        "seconds": round(seconds, 3),
        "float32_mb": round(float32 / 1e6, 1),
        "peak_mb": round(watch.total / 1e6, 1),
        "peak_not_mapped_mb": round(watch.private / 1e6, 1),
        "peak_times_float32": round(watch.total / float32, 3),
        "all_finite": bool(torch.isfinite(episodes["observation"].sum())),
    }


class MemoryWatch:
    """The largest resident memory inside the ``with``, above that at its start, in bytes."""

    def __init__(self) -> None:
        self.total = self.private = 0
        self._stop = threading.Event()

    def __enter__(self) -> MemoryWatch:
        self._before = self._now()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            self._look()

    def _look(self) -> None:
        total, private = self._now()
        self.total = max(self.total, total - self._before[0])
        self.private = max(self.private, private - self._before[1])

    @staticmethod
    def _now() -> tuple[int, int]:
        """Resident bytes, and those of them that no file backs."""
        status = Path("/proc/self/status")  # of Linux alone
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        kilobytes = [int(fields[key].split()[0]) for key in ("VmRSS", "RssAnon")]
        return 1024 * kilobytes[0], 1024 * kilobytes[1]


def sampling(size: int, repeat: int, horizon: int = 16, batch: int = 32) -> dict[str, Any]:
    """Milliseconds for a batch of windows from ``size`` transitions in memory."""
    from torchrl_td.training.buffers import make_buffer

    data = TensorDict(
        {
            "observation": torch.randn(size, OBSERVATION),
            "action": torch.randn(size, ACTION),
            "returns_to_go": torch.randn(size, 1),
            "episode": torch.arange(size) // LONGEST,
            "next": {
                "observation": torch.randn(size, OBSERVATION),
                "returns_to_go": torch.randn(size, 1),
                "reward": torch.randn(size, 1),
                "done": (torch.arange(size) % LONGEST == LONGEST - 1).unsqueeze(-1),
            },
        },
        batch_size=[size],
    )
    buffer = make_buffer(data, horizon, batch, 0, torch.device("cpu"))
    for _ in range(200):
        window = buffer.sample()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        buffer.sample()
        times.append(1e3 * (time.perf_counter() - start))
    times.sort()
    return {
        "transitions": size,
        "batch": batch,
        "window": window.shape[1],
        "median_ms": round(statistics.median(times), 4),
        "p95_ms": round(times[int(0.95 * len(times))], 4),
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """Rows of equal keys as aligned columns."""
    if not rows:
        return
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    print()


if __name__ == "__main__":
    main()
