"""A run with no environment: it trains, validates and saves, and says that it played nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.refused import refused
from torchrl_td.config import Config
from torchrl_td.errors import InputError
from torchrl_td.experiment.checkpoint_evaluation import evaluate_checkpoint
from torchrl_td.experiment.cli import print_results
from torchrl_td.experiment.run import run


@pytest.mark.parametrize("env", ["null", "NotInstalled-v0"])
def test_trains_validates_and_saves(
    env: str, tiny_config: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = run(tiny_config("evaluation.episodes=0", f"task.env={env}"))
    written = json.loads((tmp_path / "run" / "results.json").read_text())
    assert written["results"] == [] and written["nothing_played"] == "evaluation.episodes=0"
    assert written["validation"].keys() > {"loss_generator", "loss_refiner"}
    print_results(summary)
    out = capsys.readouterr().out
    assert "nothing was played (evaluation.episodes=0)" in out
    assert f"generator {summary['validation']['loss_generator']:.4g}" in out
    folder = tmp_path / "run"
    with pytest.raises(InputError, match="say how many episodes to play"):
        evaluate_checkpoint([f"checkpoint={folder}", "device=cpu"])
    again = tiny_config(f"resume={folder}", "evaluation.episodes=2")
    match = "play what it trained with"
    refused(again, match, ["evaluation.episodes=2", f"resume={folder}"])
    resumed = run(tiny_config(f"resume={folder}"), [f"resume={folder}"])
    assert resumed["validation"] == summary["validation"]
    # Where there is an environment after all, it is played when asked.
    words = ("evaluation.episodes=1", "task.env=PointMaze_UMaze-v3")
    assert evaluate_checkpoint([f"checkpoint={folder}", "device=cpu", *words])["results"]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("task.env=null",), "evaluation.episodes=2 needs an environment, and task.env is null"),
        (
            ("evaluation.episodes=0", "training.evaluate_every=3"),
            "training.evaluate_every needs evaluation.episodes above 0",
        ),
        (("evaluation.episodes=0", "logger.video=true"), "logger.video needs evaluation.episodes"),
    ],
)
def test_what_plays_needs_something_to_play(
    words: tuple[str, ...], match: str, tiny_config: Callable[..., Config]
) -> None:
    with pytest.raises(InputError, match=match):
        tiny_config(*words)
