"""The example of drop-in use, run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.td_collector import td_collector
from torchrl_td.experiment.cli import main

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "examples/td_collector.py", *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_workers_fill_the_buffer(tmp_path: Path):
    done = run("frames=640", "workers=2", f"output={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "640 of 640 steps, 2 episodes done" in done.stdout
    assert "'plan, refined': [32, 8, 6]" in done.stdout
    assert list(tmp_path.rglob("*.memmap"))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("frame=3", "unknown word 'frame=3'; allowed are checkpoint=, workers="),
        ("workers=0", "workers=0; allowed are whole numbers from 1 on"),
        ("seed=-1", "seed=-1; allowed are whole numbers from 0 on"),
        ("workers=7", "frames=1200 must be divisible by workers=7"),
        ("planner.refine_steps=2", "need a checkpoint="),
        ("checkpoint=nowhere", "nowhere"),
    ],
)
def test_a_wrong_word_is_one_line(
    word: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(sys, "argv", ["td_collector.py", word])
    with pytest.raises(SystemExit) as ended:
        main(td_collector)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
