"""What W&B and TensorBoard hold of a run and of its resumption, read from the files."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.settings import TINY_RUN, composed
from tests.wandb_records import items, read_records
from torchrl_td.commands import offline
from torchrl_td.experiment.loggers import make_logger
from torchrl_td.experiment.run import run
from torchrl_td.experiment.run_folder import read_settings

ROOT = Path(__file__).resolve().parents[1]
RUN = (
    "training.steps=6",
    "training.evaluate_every=3",
    "planner.refine_steps=1",
    "evaluation.episodes=1",
    "evaluation.compile=none",
    "logger.video=true",
)
NAMES = {
    "train/loss_generator",
    "train/gradient_norm/refiner",
    "train/learning_rate",
    "validation/loss_refiner",
    "evaluation/score/refined",
    "evaluation/score/generator",
    "evaluation/best_score",
    "time/steps_per_second",
}
MEDIA = {"evaluation/plans", "evaluation/rollout", "train/curves"}


def run_and_go_on(source: str, folder: Path, *words: str) -> None:
    """A finished run, and the same trained on."""
    given = [*TINY_RUN, *RUN, *words, f"dataset.source={source}", f"output_dir={folder}"]
    run(composed(*given))
    given = [f"resume={folder}", "training.steps=9"]
    run(composed(*given), given)


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_one_that_cannot_start_is_done_without(
    kind: str, tiny_pointmaze: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run is not lost to it: here a file lies in its folder's place."""
    (tmp_path / kind).touch()
    words = (f"dataset.source={tiny_pointmaze}", f"output_dir={tmp_path}", f"logger={kind}")
    config = composed(*TINY_RUN, *words)
    assert make_logger(config, tmp_path, "run") is None
    assert f"logger={kind} cannot start (" in caplog.text and "metrics.csv alone" in caplog.text


@pytest.fixture(scope="module")
def in_wandb(tiny_pointmaze: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wandb") / "run"
    named = ("logger.group=seeds", "logger.tags=[maze,tiny]", "logger.name=first")
    owned = ("logger.entity=us", "logger.project=mine")
    run_and_go_on(tiny_pointmaze, folder, "logger=wandb", *named, *owned)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("start", "steps"), [(0, 6), (1, 9)])
def test_wandb_holds_all_of_a_run(in_wandb: Path, start: int, steps: int) -> None:
    folders = sorted(in_wandb.glob("wandb/offline-run-*"), key=lambda path: path.stat().st_mtime)
    assert len(folders) == 2
    (path,) = folders[start].glob("run-*.wandb")
    records: dict[str, list[Any]] = {}
    for record in read_records(path):
        kind = record.WhichOneof("record_type")
        records.setdefault(kind, []).append(getattr(record, kind))
    (about,) = records["run"]
    assert about.run_id == path.stem.removeprefix("run-")
    named = (about.entity, about.project, about.run_group, about.display_name, list(about.tags))
    assert named == ("us", "mine", "seeds", "first", ["maze", "tiny"])
    settings = items(about.config.update)
    assert settings["training"]["steps"] == steps and settings["refiner"]["channels"] == 8
    rows = [items(row.item) for row in records["history"]]
    logged = {name for row in rows for name in row}
    assert logged >= NAMES
    assert not {name.split("/")[0] for name in logged if "/" in name and " " not in name} - {
        "train",
        "validation",
        "evaluation",
        "time",
    }
    last = [row["train/step"] for row in rows if "train/step" in row]
    assert last == ([3, 6] if start == 0 else [9])
    for name in MEDIA:
        (file,) = (row[f"{name} path"] for row in rows if f"{name} path" in row)
        assert (folders[start] / "files" / file).stat().st_size > 100
    (table,) = (row for row in rows if "evaluation/results path" in row)
    shown = (folders[start] / "files" / table["evaluation/results path"]).read_text()
    assert "score_mean" in shown and "refined" in shown and table["evaluation/results nrows"] == 2
    versions = [one for one in records["artifact"] if one.type == "model"]
    assert {one.name for one in versions} == {f"checkpoint-{about.run_id}"}
    aliases = [set(one.aliases) - {"latest"} for one in versions]
    assert aliases[-1] == {"last", f"step-{steps}"} and "best" in aliases[0]
    kept = {entry.path for entry in versions[-1].manifest.contents}
    assert "components/0001-planner/state.pt" in kept
    assert all(str(in_wandb) in e.local_path for v in versions for e in v.manifest.contents)
    measured = {name for one in records["stats"] for name in items(one.item)}
    assert any(name.startswith("proc.memory") for name in measured)  # W&B's own
    summary: dict[str, Any] = {}
    for one in records["summary"]:
        summary |= items(one.update)
    scores = [row["evaluation/score/refined"] for row in rows if "evaluation/score/refined" in row]
    assert summary["evaluation/best_score"] >= max(scores)


@pytest.mark.pictures
def test_tensorboard_holds_the_same(
    tiny_pointmaze: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path_factory.mktemp("tensorboard") / "run"
    run_and_go_on(tiny_pointmaze, folder, "logger=tensorboard", "logger.name=first")
    events = EventAccumulator(str(folder / "tensorboard" / "first"))
    events.Reload()
    tags = events.Tags()
    assert set(tags["scalars"]) >= NAMES and set(tags["images"]) == MEDIA
    for name in MEDIA:
        assert [image.step for image in events.Images(name)] == [6, 9]
    (text,) = (tag for tag in tags["tensors"] if tag.startswith("evaluation/results"))
    tables = [event.tensor_proto.string_val[0].decode() for event in events.Tensors(text)]
    assert len(tables) == 2 and all("| refined | 1 |" in table for table in tables)
    assert [event.step for event in events.Scalars("train/learning_rate")] == [3, 6, 9]

    given = [f"resume={folder}"]  # of a run that is done: it is played again
    run(composed(*given), given)
    events.Reload()
    for name, steps in (("score/refined", [3, 6, 9]), ("score_std/generator", [6, 9])):
        assert [event.step for event in events.Scalars(f"evaluation/{name}")] == steps


def test_wandb_disabled_logs_nothing(tmp_path: Path) -> None:
    config = composed("logger=wandb", "logger.mode=disabled")
    assert make_logger(config, tmp_path, "id") is None and not list(tmp_path.iterdir())


def sweep_command(sweep: dict[str, Any]) -> list[str]:
    """What an agent runs for each parameter's first value, of W&B's own parts."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    parameters = sweep["parameters"].items()
    first = {k: {"value": p["value"] if "value" in p else p["values"][0]} for k, p in parameters}
    macros = create_sweep_command_args({"args": first})
    words = []
    for chunk in create_sweep_command(list(sweep["command"])):
        words += macros[chunk[2:-1]] if chunk.startswith("${") else [chunk]
    return words


def test_the_sweep_runs_as_written(
    tiny_pointmaze: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = yaml.safe_load((ROOT / "examples" / "sweep.yaml").read_text())
    program, *words = sweep_command(sweep)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert program == sweep["program"] and scripts[program] == "torchrl_td.commands.offline:main"
    given = {word.partition("=")[0] for word in words}
    tiny = [word for word in TINY_RUN if word.partition("=")[0] not in given]
    fast = [f"dataset.source={tiny_pointmaze}", "training.steps=1", "logger.mode=disabled"]
    quiet = ["hydra/hydra_logging=none", "evaluation.episodes=1"]
    monkeypatch.setattr(sys, "argv", [program, *words, *tiny, *fast, *quiet])
    monkeypatch.setenv("WANDB_RUN_ID", "abcd1234")  # as an agent sets it
    monkeypatch.chdir(tmp_path)
    offline.main()
    folder = tmp_path / "outputs" / "sweep" / "abcd1234"
    config = read_settings(folder)
    assert config.logger.kind == "wandb" and config.task.name == "pointmaze/umaze"
    assert (
        config.training.learning_rate == sweep["parameters"]["training.learning_rate"]["values"][0]
    )
    assert json.loads((folder / "run.json").read_text())["id"] == "abcd1234"
    assert sweep["metric"]["name"] in (folder / "metrics.csv").read_text().splitlines()[0]
