"""A finished run that is trained on with more steps."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from torchrl import torchrl_logger

from tests.refused import refused
from tests.same_run import assert_same_results, assert_same_state
from tests.settings import composed
from torchrl_td.config import Config
from torchrl_td.experiment.resume import _continued
from torchrl_td.experiment.run import run
from torchrl_td.experiment.run_folder import read_settings

MakeConfig = Callable[..., Config]
HALF = (
    "training.steps=6",
    "planner.refine_steps=1",
    "evaluation.episodes=1",
    "evaluation.compile=none",
)


def rows(folder: Path) -> list[dict[str, str]]:
    """What was logged, without the score that a run's end adds: of the draft alone."""
    with (folder / "metrics.csv").open(newline="") as file:
        table = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
    for row in table[:-1]:
        for name in [name for name in row if name.endswith("/generator") and "evaluation" in name]:
            del row[name]
    return table


def resume(make: MakeConfig, folder: Path, *words: str) -> dict:
    given = [f"resume={folder}", *words]
    return run(make(*given), given)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    monkeypatch.setattr(torchrl_logger, "propagate", True)
    caplog.set_level(logging.INFO, torchrl_logger.name)
    return lambda: caplog.text


def test_a_run_trained_on_is_the_longer_run(
    tiny_config: MakeConfig, tmp_path: Path, log: Callable[[], str]
) -> None:
    """To the last digit, with the same decay_steps, interrupted on the way or not."""
    folder, whole = tmp_path / "run", tmp_path / "whole"
    words = (*HALF, "training.evaluate_every=6")
    run(tiny_config(*words, "training.steps=12", "training.decay_steps=6", f"output_dir={whole}"))
    run(tiny_config(*words))
    resume(tiny_config, folder, "training.steps=12", "training.stop_after=6")
    assert "trains on from step 6 to 12 in place of 6; the learning rate, which fell" in log()
    assert "(training.decay_steps), stays at 1e-05; with training.decay_steps=12" in log()
    summary = resume(tiny_config, folder)  # it is a run of 12 steps from now on
    assert summary["training_steps"] == summary["settings"]["training"]["steps"] == 12
    assert read_settings(folder).training.steps == 12
    assert_same_state(whole, folder)
    assert_same_results(whole, folder)
    assert rows(whole) == rows(folder)
    names = [sorted(path.name for path in one.glob("checkpoint/*")) for one in (whole, folder)]
    assert names[0] == names[1]  # the best one, too


def test_another_decay_goes_on_from_its_own_place(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run(tiny_config(*HALF, "training.stop_after=5"))
    more = [f"resume={tmp_path / 'run'}", "training.steps=12", "training.decay_steps=12"]
    allowed = "'training.log_every' cannot be given; allowed are .*training.steps, training.decay_s"
    refused(tiny_config(*more, "training.log_every=1"), allowed, [*more, "training.log_every=1"])
    resume(tiny_config, tmp_path / "run", *more[1:], "training.stop_after=9")
    rate = [float(row["train/learning_rate"]) for row in rows(tmp_path / "run")]
    at = [1e-3 * (1 - 0.99 * step / decay) for step, decay in ((2, 6), (5, 12), (8, 12))]
    assert rate == pytest.approx(at)


def test_fewer_steps_than_are_done_are_refused(tiny_config: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(tiny_config(*HALF, "training.stop_after=5"))
    words = [f"resume={folder}", "training.steps=4"]
    refused(tiny_config(*words), f"training.steps=4, but the run in {folder} has done 5", words)
    refused(
        tiny_config(*HALF, "resume=auto", "training.steps=24"),
        f"has training.steps=6, not 24; .* to train on, resume={folder} training.steps=24",
    )
    fewer = (
        "has training.steps=6, not 3; give the settings it was started with, or another output_d"
    )
    refused(tiny_config(*HALF, "training.steps=3", "resume=auto"), fewer)
    other = r"has algorithm\.name=trajectory_diffuser, not bc; .* or another output_dir$"
    words = ["algorithm=bc", "training.steps=24", "evaluation.baseline=null"]
    refused(composed(*words, f"output_dir={folder}", "resume=auto", "progress=false"), other)
    assert resume(tiny_config, folder, "training.steps=5")["training_steps"] == 5  # ends it


def test_a_run_out_of_patience_trains_on_if_told(tiny_config: MakeConfig) -> None:
    stored = tiny_config("training.evaluate_every=1", "training.patience=1")
    words = ["resume=x", "training.steps=24", "training.patience=null"]
    training = _continued(stored, tiny_config(*words), words).training
    assert (training.steps, training.decay_steps, training.patience) == (24, 12, None)
