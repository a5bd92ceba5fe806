"""The example of drop-in use."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from examples import td_collector as example
from examples.td_collector import td_collector
from torchrl_td.errors import InputError
from torchrl_td.experiment.cli import main


@pytest.mark.usefixtures("forking")
def test_workers_fill_the_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    task, actor = example.untrained()
    short = replace(task, max_episode_steps=24)
    monkeypatch.setattr(example, "untrained", lambda: (short, actor))
    words = ["frames=64", "workers=2", f"output={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["td_collector.py", *words])
    main(td_collector)
    out = capsys.readouterr().out
    assert "64 of 64 steps, 2 episodes done" in out
    assert "'plan, refined': [32, 8, 6]" in out
    assert list(tmp_path.rglob("*.memmap"))


@pytest.mark.usefixtures("forking")
def test_it_ends_where_collecting_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waited for its workers for ever."""

    def broken(data: Any) -> list[float]:
        raise ValueError("collecting fails")

    monkeypatch.setattr(example, "finished_returns", broken)
    monkeypatch.setattr(sys, "argv", ["td_collector.py", "frames=8"])
    with pytest.raises(ValueError, match="collecting fails"):
        td_collector()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("frame=3", "unknown word 'frame=3'; allowed are checkpoint=, workers="),
        ("workers=0", "workers=0; allowed are whole numbers from 1 on"),
        ("seed=-1", "seed=-1; allowed are whole numbers from 0 on"),
        ("workers=7", "frames=1200 must be divisible by workers=7"),
        ("planner.refine_steps=2", "need a checkpoint="),
        ("env=Pendulum-v1", "env need a checkpoint="),
        ("checkpoint=nowhere", "nowhere"),
        ("frames=²", "frames=²; allowed are whole numbers from 1 on"),
        ("output=/proc/none", "cannot write to output=/proc/none: "),
        ("output=tests", "output=tests is not empty; name a new folder"),
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


@pytest.mark.stranger("machines")
def test_a_folder_that_cannot_be_written_is_refused(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(InputError, match=f"cannot write to output={small_disk}: it is not"):
        example.read_words([f"output={small_disk}"])
