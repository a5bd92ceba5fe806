"""The example end to end in miniature, as a user calls it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.settings import CONFIGS, TINY_RUN
from torchrl_td.commands.evaluate import td_evaluate
from torchrl_td.commands.offline import td_offline
from torchrl_td.experiment.cli import main

# Hydra would close every handler of logging there is: absl's with the stream that it met when it
# was imported, which is one of pytest's.
NO_LOGGING = ("hydra/job_logging=none", "hydra/hydra_logging=none")
ROOT = Path(__file__).resolve().parents[2]


def call(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    """Runs the example in another folder than the checkout's, where it leaves nothing."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "td_offline.py"), *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in cwd.iterdir()} == {"run"}
    return done


@pytest.fixture
def called_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, list[str]]]:
    """Calls a program in this process, for a new one takes seconds to start; what it writes."""

    def call(program: Callable[[], None], *words: str, status: int = 0) -> tuple[str, list[str]]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [program.__name__, *words])
        try:
            main(program, CONFIGS)
        except SystemExit as ended:
            assert ended.code == status
        else:
            assert status == 0
        assert {path.name for path in tmp_path.iterdir()} <= {"run", "seed0", "seed1", "sweep"}
        written = capsys.readouterr()
        return written.out, [line for line in written.err.splitlines() if "error: " in line]

    return call


@pytest.fixture(scope="module")
def finished(tiny_pointmaze: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("offline")
    folder = cwd / "run"
    words = (f"dataset.source={tiny_pointmaze}", f"output_dir={folder}", "seed=3")
    done = call(*TINY_RUN, *words, "logger=tensorboard", cwd=cwd)
    assert "generator alone" in done.stdout and "refined" in done.stdout
    assert "data: mean score" in done.stdout
    for told in ("Adroit", "\033", "leaked", "Traceback"):  # of dependencies, and colours
        assert told not in done.stderr + done.stdout
    return folder


def test_writes_what_is_promised(finished: Path) -> None:
    for name in ("config.yaml", "metrics.csv", "plans.png", "training.png", "run.json"):
        assert (finished / name).stat().st_size > 0, name
    assert (finished / "checkpoint").is_dir()
    assert list((finished / "tensorboard").rglob("events.*"))
    assert (finished / "plans.png").read_bytes().startswith(b"\x89PNG")
    (start,) = json.loads((finished / "run.json").read_text())["starts"]
    assert start["overrides"][: len(TINY_RUN)] == list(TINY_RUN) and "seed=3" in start["overrides"]
    with (finished / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [3, 6, 9, 12]
    assert float(rows[-1]["train/loss_generator"]) < float(rows[0]["train/loss_generator"])


def test_results_hold_every_field(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert results["task"] == "pointmaze/umaze" and results["environment"] == "PointMaze_UMaze-v3"
    assert results["preset"] == "small" and results["seed"] == 3
    assert results["training_steps"] == 12 and results["device"] == "cpu"
    assert results["parameters"].keys() == {"generator", "refiner", "inverse_dynamics"}
    assert results["versions"].keys() >= {"python", "torch", "torchrl", "mujoco"}
    data = results["dataset"]
    assert data["source"] == "minari:pointmaze/umaze-v0" and data["transitions"] == 3600
    assert data["score_mean"] <= data["score_best"] and data["return_best"] <= 300
    alone, refined = results["results"]
    assert alone["refine_steps"] == 0 and refined["refine_steps"] > 0
    for result in (alone, refined):
        assert len(result["returns"]) == result["episodes"] == 2
        assert result["score_std"] >= 0
        assert 0 < result["seconds_per_plan_median"] <= result["seconds_per_plan_p95"]


def test_evaluates_again_with_other_settings(
    finished: Path, tmp_path: Path, called_here: Callable
) -> None:
    output = tmp_path / "run" / "again.json"
    output.parent.mkdir()
    words = ("planner.refine_steps=1", "evaluation.episodes=3", f"output={output}", "device=cpu")
    out, _ = called_here(td_evaluate, f"checkpoint={finished / 'checkpoint'}", *words)
    assert "3 episodes" in out
    again = json.loads(output.read_text())
    (result,) = again["results"]
    assert result["refine_steps"] == 1 and len(result["returns"]) == 3
    assert again["training_steps"] == 12 and again["seed"] == 3


def test_a_mistake_is_one_line(finished: Path, called_here: Callable) -> None:
    _, (line,) = called_here(td_offline, *NO_LOGGING, *TINY_RUN, f"output_dir={finished}", status=2)
    assert line.startswith("error: output_dir=") and "already holds a run" in line
    _, (line,) = called_here(td_offline, *NO_LOGGING, "task=pointmaze/huge", status=2)
    assert line.startswith("error: unknown task 'pointmaze/huge'; allowed are ")
    assert "pointmaze/umaze" in line and "pointmaze/medium" in line


def test_several_seeds_in_one_command(
    tiny_pointmaze: str, tmp_path: Path, called_here: Callable
) -> None:
    """Hydra's multirun; one bad run of several does not cost the others."""
    words = (f"dataset.source={tiny_pointmaze}", f"output_dir={tmp_path}/" + "seed${seed}")
    more = ("seed=0,1", "training.gradient_clip=-1,1", f"hydra.sweep.dir={tmp_path}/sweep")
    _, errors = called_here(td_offline, "-m", *NO_LOGGING, *TINY_RUN, *words, *more, status=2)
    assert len(errors) == 2
    found = [json.loads((tmp_path / f"seed{s}" / "results.json").read_text()) for s in (0, 1)]
    assert [result["seed"] for result in found] == [0, 1]
