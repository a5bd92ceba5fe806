"""A run in one process: what it leaves behind, its interruption, and what it refuses."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded

from tests.refused import refused
from tests.same_run import assert_same_run
from tests.settings import TINY_RUN, composed
from torchrl_td.checkpoint import find_checkpoint, load_about
from torchrl_td.config import Config
from torchrl_td.data import ensure_pointmaze, load_episodes
from torchrl_td.errors import InputError
from torchrl_td.experiment import evaluator, experiment, progress
from torchrl_td.experiment.evaluate import EvaluationResult
from torchrl_td.experiment.run import run

MakeConfig = Callable[..., Config]
EVALUATING = ("training.evaluate_every=3", "planner.refine_steps=1")


@pytest.fixture(scope="module")
def undisturbed(tiny_pointmaze: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole run for all tests that compare with it."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    words = (f"dataset.source={tiny_pointmaze}", f"output_dir={folder}", *EVALUATING)
    run(composed(*TINY_RUN, *words))
    return folder


def test_leaves_everything_that_is_promised(undisturbed: Path) -> None:
    folder = undisturbed
    names = {path.name for path in folder.iterdir()}
    assert names >= {"config.yaml", "checkpoint", "metrics.csv", "timing.csv", "results.json"}
    assert names >= {"plans.png", "training.png", "run.json"}
    columns = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    for name in (
        "train/loss_generator",
        "train/state_error",
        "train/loss_refiner",
        "train/gradient_norm/refiner",
        "train/learning_rate",
        "validation/loss_refiner",
        "validation/loss_refiner_ema",
        "evaluation/score/refined",
        "evaluation/score/generator",
    ):
        assert name in columns
    assert not [name for name in columns if name.startswith("time/")]
    assert "time/steps_per_second" in (folder / "timing.csv").read_text()
    (start,) = json.loads((folder / "run.json").read_text())["starts"]
    assert start["command"] and start["versions"]["torch"] and start["git_commit"]
    assert (
        start["dataset"]["hash"]
        == json.loads((folder / "results.json").read_text())["dataset"]["hash"]
    )
    assert len(list((folder / "checkpoint").glob("step-*"))) == 2
    assert len(list((folder / "checkpoint").glob("best-*"))) == 1
    assert load_about(find_checkpoint(folder / "checkpoint" / "best"))["step"] in (3, 6, 9, 12)


def test_two_runs_are_equal(undisturbed: Path, tiny_config: MakeConfig, tmp_path: Path) -> None:
    """Also where plans are run plainly: so few are not worth a compiler."""
    torch.manual_seed(99)  # whatever was drawn before
    results = run(tiny_config("evaluation.compile=none", *EVALUATING))["results"]
    assert [result["compile"] for result in results] == ["none", "none"]
    assert_same_run(undisturbed, tmp_path / "run")


def test_a_way_to_run_plans_that_the_device_lacks_is_refused_at_once(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="mode='cudagraph' needs a CUDA device"):
        run(tiny_config("evaluation.compile=cudagraph"))
    assert not (tmp_path / "run" / "config.yaml").exists()  # so a new start may take its place


def test_resumes_bit_for_bit(undisturbed: Path, tiny_config: MakeConfig, tmp_path: Path) -> None:
    # Stops between checkpoints, logs and evaluations, on them, and at the end.
    for stop, resume in ((2, "auto"), (6, "auto"), (7, tmp_path / "run"), (12, "auto")):
        words = (f"resume={resume}", f"training.stop_after={stop}")
        assert run(tiny_config(*EVALUATING, *words))["training_steps"] == stop
        torch.manual_seed(stop)  # a new process starts from other random states
    assert_same_run(undisturbed, tmp_path / "run")
    assert len(json.loads((tmp_path / "run" / "run.json").read_text())["starts"]) == 4


def test_a_finished_run_can_be_resumed(
    undisturbed: Path, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()  # as if killed while evaluating
    run(tiny_config("resume=auto", *EVALUATING))
    assert_same_run(undisturbed, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_signals_save_first(number: int, tiny_config: MakeConfig, tmp_path: Path) -> None:
    words = ("training.steps=100000", "training.checkpoint_every=100000")
    metrics = tmp_path / "run" / "metrics.csv"
    handler_before = signal.getsignal(number)  # of SIGINT: ignored, where a shell started us with &

    def interrupt() -> None:
        while not metrics.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    killer = threading.Thread(target=interrupt)
    killer.start()
    summary = run(tiny_config(*words))
    killer.join()
    assert summary["stopped_by"] == number and summary["results"] == []
    assert load_about(find_checkpoint(tmp_path / "run"))["step"] == summary["training_steps"] > 0
    assert signal.getsignal(number) is handler_before


def interrupted(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)  # the signal arrives in here
    raise AssertionError("not interrupted")


def test_a_signal_during_an_evaluation_or_its_pictures_counts_it_once(
    undisturbed: Path, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("logger.pictures=true", "resume=auto")
    # The evaluation at step 3 is the best so far, the others are no better.
    for during, step in (("play_one", 3), ("play_one", 6), ("evaluate", 9)):
        with monkeypatch.context() as patch:
            patch.setattr(evaluator, during, interrupted)
            summary = run(tiny_config(*EVALUATING, *words))
        assert summary["stopped_by"] == signal.SIGTERM and summary["training_steps"] == step
    run(tiny_config("resume=auto", *EVALUATING))
    assert_same_run(undisturbed, tmp_path / "run")


@pytest.mark.parametrize("during", ["evaluate", "play_one"])
def test_a_signal_after_training(
    during: str, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During the last evaluation, or when its results are written and pictures drawn."""
    words = ("training.steps=2", "planner.refine_steps=0")
    with monkeypatch.context() as patch:
        patch.setattr(evaluator, during, interrupted)
        summary = run(tiny_config(*words))
    scored = during == "play_one"
    assert summary["stopped_by"] == signal.SIGTERM and summary["training_steps"] == 2
    assert len(summary["results"]) == scored == (tmp_path / "run" / "results.json").exists()
    assert "stopped_by" not in (again := run(tiny_config(*words, "resume=auto")))
    assert len(again["results"]) == 1 and (tmp_path / "run" / "plans.png").exists()


def test_the_best_is_not_lost_where_it_cannot_be_saved(
    undisturbed: Path, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends, as where any checkpoint cannot be saved, and evaluates again when resumed."""

    def full(*_: Any, **__: Any) -> None:
        raise InputError("the disk is full")

    for owner, name in ((experiment, "save_checkpoint"), (evaluator.Evaluator, "record")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(InputError, match="the disk is full"):
                run(tiny_config("resume=auto", *EVALUATING))
    run(tiny_config("resume=auto", *EVALUATING))
    assert_same_run(undisturbed, tmp_path / "run")
    assert load_about(find_checkpoint(tmp_path / "run/checkpoint/best"))["step"] == 3


@pytest.mark.pictures
def test_a_picture_that_cannot_be_written_costs_no_training(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("torchrl_td.experiment.plotting.torchrl_logger.warning", said.append)
    names = ["plans-1.png", "training.png", "plans.png", "rollout.gif"]
    for name in names:
        (tmp_path / "run" / name).mkdir(parents=True)
    words = ("training.steps=2", "training.evaluate_every=1", "planner.refine_steps=0")
    summary = run(tiny_config(*words, "logger.pictures=true", "logger.video=true"))
    assert summary["results"] and (tmp_path / "run" / "results.json").exists()
    for name, line in zip(names, said, strict=True):
        assert line.startswith(f"no {tmp_path / 'run' / name}: Is a directory; ")
        assert "\n" not in line


def test_the_time_of_training_is_not_that_of_the_last_evaluation(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def slow(*_: Any) -> EvaluationResult:
        now[0] += 1000
        return EvaluationResult("generator", 0, [1.0], [1], 1.0, 0.0, 1, 0.0, 0.0)

    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(evaluator, "evaluate", slow)
    words = ("training.steps=2", "planner.refine_steps=0")
    assert run(tiny_config(*words, "training.evaluate_every=2"))["training_seconds"] == 0


def test_stops_for_want_of_progress(tiny_config: MakeConfig, tmp_path: Path) -> None:
    words = ("training.evaluate_every=1", "training.patience=2", "planner.refine_steps=0")
    summary = run(tiny_config(*words))  # untrained: every score is the same
    assert summary["training_steps"] == 3 and summary["results"]
    again = run(tiny_config(*words, "resume=auto"))
    assert again["training_steps"] == 3


def test_a_score_that_is_no_number_is_never_the_best(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    config = tiny_config("training.evaluate_every=1", "training.patience=2")
    spec = Bounded(-1.0, 1.0, (2,))
    counting = evaluator.Evaluator(config, tmp_path, spec, torch.device("cpu"))
    for score, best, patient in (
        (math.nan, None, True),
        (-7.0, -7.0, True),
        (math.nan, -7.0, True),
        (math.nan, -7.0, False),
    ):
        counting.count(EvaluationResult("refined", 1, [], [], score, 0.0, 2, 0.0, 0.0))
        assert counting.best_score == best and counting.out_of_patience() is not patient


def test_survives_a_failing_environment(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def dies(*_: Any) -> None:
        raise InputError("an environment failed")

    monkeypatch.setattr(evaluator, "evaluate", dies)
    with pytest.raises(InputError, match="the training is saved: resume="):
        run(tiny_config(*EVALUATING))
    assert load_about(find_checkpoint(tmp_path / "run"))["step"] == 12
    monkeypatch.undo()
    assert len(run(tiny_config(*EVALUATING, "resume=auto"))["results"]) == 2


def test_trains_on_data_from_python(tiny_config: MakeConfig, tiny_pointmaze: str) -> None:
    data = load_episodes(tiny_pointmaze)
    summary = run(tiny_config("evaluation.episodes=1"), data=data)
    assert summary["dataset"]["transitions"] == len(data)


def test_without_progress_nothing_is_shown_while_the_data_is_recorded(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    config = tiny_config("training.stop_after=1")  # the tiny dataset goes to the session's folder
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    few = functools.partial(ensure_pointmaze, steps=900)
    monkeypatch.setattr("torchrl_td.data.sources.minari.ensure_pointmaze", few)
    assert run(config)["dataset"]["transitions"] == 900
    assert "recording" not in capfd.readouterr().err


def test_divergence_names_the_rows_and_keeps_the_last_checkpoint(
    tiny_config: MakeConfig, tmp_path: Path, tiny_pointmaze: str
) -> None:
    with pytest.raises(InputError, match=r"diverged at step \d+: .* dataset rows \[\d+") as caught:
        run(tiny_config("training.learning_rate=1e20", "training.gradient_clip=null"))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no checkpoint"):  # none of the bad ones was saved
        find_checkpoint(tmp_path / "run")


def test_an_exploding_loss_stops(tiny_config: MakeConfig, tmp_path: Path) -> None:
    words = ("training.explosion=1.0", "training.learning_rate=1e-8", "training.log_every=2")
    with pytest.raises(InputError, match=r"training.explosion=1 times"):
        run(tiny_config(*words))


def test_refuses_a_folder_that_holds_a_run(tiny_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 1\n")
    refused(tiny_config(), "already holds a run; continue it with resume=")


def test_refuses_two_runs_in_one_folder(tiny_config: MakeConfig, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused(tiny_config(), "another run is writing to output_dir=")
        refused(tiny_config("resume=auto"), "another run is writing to output_dir=")


def test_refuses_a_folder_it_cannot_write_to(tiny_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(tiny_config(f"output_dir={tmp_path / 'file' / 'run'}"), "cannot write to output_dir")


def test_data_must_fit_the_environment(tiny_config: MakeConfig, tiny_pointmaze: str) -> None:
    data = load_episodes(tiny_pointmaze)
    narrow = TensorDict(data.to_dict(), batch_size=data.batch_size)
    narrow["observation"] = narrow["observation"][:, :5].clone()
    narrow["next", "observation"] = narrow["next", "observation"][:, :5].clone()
    with pytest.raises(InputError, match="observation") as caught:
        run(tiny_config(), data=narrow)
    assert "\n" not in str(caught.value)


def test_refuses_a_horizon_that_the_unet_cannot_take(tiny_config: MakeConfig) -> None:
    refused(tiny_config("task.horizon=9"), "horizon must be divisible by 2, got horizon=9")


def test_refuses_a_device_that_is_not_there(tiny_config: MakeConfig) -> None:
    refused(tiny_config("device=toaster"), "device=toaster cannot be used")
    refused(tiny_config("device=meta"), "device=meta cannot be used")
