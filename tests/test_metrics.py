"""metrics.csv through interruptions, and the loggers beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from torchrl_td.config import Config
from torchrl_td.errors import InputError
from torchrl_td.experiment.logging import Metrics, MetricsFile


def write_all(file: MetricsFile, first: int, last: int) -> None:
    """What a run writes: losses, now and then a validation, at the end a score."""
    for step in range(first, last + 1):
        file.write(step, {"train/loss": 1 / step})
        if step % 2 == 0:
            file.write(step, {"validation/loss": 2 / step})
    if last == 6:
        file.write(6, {"evaluation/score": 50.0})


def test_rows_and_columns(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    write_all(file, 1, 6)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "step,train/loss,validation/loss,evaluation/score"
    assert lines[1] == "1,1,," and lines[2] == "2,0.5,1," and lines[6].endswith(",50")
    assert file.series("validation/loss") == ([2, 4, 6], [1.0, 0.5, pytest.approx(1 / 3)])


@settings(max_examples=25)
@given(kills=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), max_size=4))
def test_resuming_writes_the_same_file(kills: list[tuple[int, int]], tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("metrics")
    write_all(MetricsFile(folder / "whole.csv"), 1, 6)
    done = 0
    for killed_at, saved_at in kills:  # written until killed, saved some time before
        if killed_at > done:
            saved = max(done, min(saved_at, killed_at))
            file = MetricsFile(folder / "parts.csv", done if done else None)
            write_all(file, done + 1, killed_at)
            done = saved
    write_all(MetricsFile(folder / "parts.csv", done if done else None), done + 1, 6)
    whole, parts = (folder / name for name in ("whole.csv", "parts.csv"))
    if done < 6:
        assert parts.read_text() == whole.read_text()


@pytest.mark.parametrize("torn", ["7,0.1", "7,0.1\0\0\0\n", "\0\0\0\0", "7", "garbage\n,,,,\n"])
def test_a_torn_line_costs_no_other(torn: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write_all(MetricsFile(path), 1, 5)
    whole = path.read_text()
    path.write_text(whole + torn)
    MetricsFile(path, keep_until=5)
    assert path.read_text() == whole


def test_a_file_is_left_as_it_is_where_it_is_only_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,x\n1,1\n2,0.")
    before = path.stat().st_ino
    assert MetricsFile(path, keep_until=9, read_only=True).series("x") == ([1, 2], [1.0, 0.0])
    assert (path.stat().st_ino, path.read_text()) == (before, "step,x\n1,1\n2,0.")


def test_a_new_run_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,x\n1,1\n")
    MetricsFile(path).write(3, {"y": 1.0})
    assert path.read_text().split() == ["step,y", "3,1"]


def test_an_unwritable_file_is_one_line(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    file.write(1, {"x": 1.0})
    file.path = tmp_path / "no" / "metrics.csv"
    with pytest.raises(InputError, match=r"cannot write .*; free some space") as caught:
        file.write(2, {"x": 1.0})
    assert "\n" not in str(caught.value)


def test_times_are_kept_apart(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    metrics = Metrics(tiny_config(), tmp_path, "id")
    metrics.write(1, {"train/loss": 1.0, "time/seconds": 2.0})
    metrics.close()
    assert "time" not in (tmp_path / "metrics.csv").read_text()
    assert "time/seconds" in (tmp_path / "timing.csv").read_text()


def test_tensorboard(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    picture = draw(tmp_path)
    metrics = Metrics(tiny_config("logger=tensorboard"), tmp_path, "id")
    metrics.write(7, {"train/loss": 1.5, "train/bad": math.nan, "time/seconds": 2.0})
    metrics.picture("plans", picture, 7)
    metrics.video("rollout", animate(tmp_path), 7)
    metrics.close()
    (folder,) = (path.parent for path in tmp_path.rglob("events.*"))
    events = EventAccumulator(str(folder))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "time/seconds"}
    (point,) = events.Scalars("train/loss")
    assert (point.step, point.value) == (7, 1.5)
    assert set(events.Tags()["images"]) == {"plans", "rollout"}
    assert events.Images("rollout")[0].encoded_image_string == animate(tmp_path).read_bytes()


def test_tensorboard_shows_steps_taken_again_once(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    """Killed at step 5, resumed from step 3; and killed before the first checkpoint."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written = (([1, 2], None), ([1, 2, 3, 4, 5], None), ([4, 5, 6], 3))
    for number, (steps, keep_until) in enumerate(written):
        metrics = Metrics(tiny_config("logger=tensorboard"), tmp_path, "id", keep_until)
        for step in steps:
            metrics.write(step, {"train/loss": 10.0 * number + step})
        metrics.close()
        time.sleep(1.1)  # event files are named by the second
    (folder,) = {path.parent for path in tmp_path.rglob("events.*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    points = [(point.step, point.value) for point in events.Scalars("train/loss")]
    assert points == [(1, 11), (2, 12), (3, 13), (4, 24), (5, 25), (6, 26)]


def draw(folder: Path) -> Path:
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(1, 1))
    figure.savefig(folder / "picture.png")
    plt.close(figure)
    return folder / "picture.png"


def test_a_logger_that_fails_costs_no_training(
    tiny_config: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when W&B's own process is killed: each call to it raises from then on."""

    class Dead:
        calls = 0

        def __getattr__(self, name: str) -> Any:
            self.calls += 1
            raise ConnectionResetError(104, "Connection reset by peer")

    for use in (
        lambda metrics: metrics.write(2, {"train/loss": 0.5}),
        lambda metrics: metrics.picture("plans", draw(tmp_path), 2),
        lambda metrics: metrics.video("rollout", animate(tmp_path), 2),
        lambda metrics: metrics.close(),
    ):
        dead = Dead()
        monkeypatch.setattr("torchrl_td.experiment.logging.make_logger", lambda *_, dead=dead: dead)
        metrics = Metrics(tiny_config(), tmp_path, "id")
        use(metrics)
        metrics.write(3, {"train/loss": 0.25})
        metrics.close()
        assert dead.calls == 1
        assert (tmp_path / "metrics.csv").read_text().endswith("3,0.25\n")


def animate(folder: Path) -> Path:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "rollout.gif", save_all=True, append_images=frames[1:])
    return folder / "rollout.gif"


def wandb_runs(folder: Path) -> list[tuple[str, bytes]]:
    """Id and records of the offline runs, in the order they were made."""
    runs = sorted(folder.glob("offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)
    return [(path.stem.removeprefix("run-"), path.read_bytes()) for path in runs]


@pytest.mark.slow
@pytest.mark.parametrize("login", [None, "0" * 40])
def test_wandb_without_login_or_network_goes_offline(
    login: str | None,
    tiny_config: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path))  # no login of the user's
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("torchrl_td.experiment.loggers._WANDB_SECONDS", 2)
    if login is None:
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
    else:
        monkeypatch.setenv("WANDB_API_KEY", login)
    metrics = Metrics(tiny_config("logger=wandb", "logger.mode=online"), tmp_path, "abcd1234")
    metrics.write(1, {"train/loss": 0.5})
    metrics.close()
    for _ in range(100):  # W&B's own process writes the file, on a busy machine a little later
        ((run_id, records),) = wandb_runs(tmp_path / "wandb")
        if b"train/loss" in records:
            break
        time.sleep(0.1)
    assert run_id == "abcd1234" and b"train/loss" in records
