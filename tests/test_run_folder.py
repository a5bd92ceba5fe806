"""A run's folder: planted links are not followed, and git is asked about this project alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.refused import refused
from torchrl_td.config import Config
from torchrl_td.errors import InputError
from torchrl_td.experiment import run_folder as module
from torchrl_td.experiment.logging import MetricsFile
from torchrl_td.experiment.run_folder import new_file, read_settings, run_folder, write_text

pytestmark = pytest.mark.stranger("run folders")


@pytest.mark.parametrize("name", [".run.json.tmp", "run.json"])
def test_a_planted_link_is_not_written_through(name: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / name).symlink_to(victim)
    write_text(tmp_path / "run.json", "new")
    assert victim.read_text() == "mine" and (tmp_path / "run.json").read_text() == "new"
    assert not (tmp_path / "run.json").is_symlink()


@pytest.mark.parametrize("name", [".metrics.csv.tmp", "metrics.csv"])
@pytest.mark.parametrize("keep_until", [None, 3])
def test_nor_by_the_metrics(name: str, keep_until: int | None, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / name).symlink_to(victim)
    metrics = MetricsFile(tmp_path / "metrics.csv", keep_until)
    metrics.write(4, {"x": 1.0})
    metrics.write(5, {"x": 1.0})
    assert victim.read_text() == "mine"
    assert (tmp_path / "metrics.csv").read_text().split()[-2:] == ["4,1", "5,1"]


def test_nor_by_the_lock_nor_into_folders(tiny_config: Callable[..., Config], tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "victim")
    with (
        pytest.raises(InputError, match="cannot write to output_dir"),
        run_folder(tmp_path / "run", False),
    ):
        pass
    assert (tmp_path / "victim").read_text() == "mine"
    (tmp_path / "run" / ".lock").unlink()
    (tmp_path / "run" / "tensorboard").symlink_to(tmp_path)
    refused(tiny_config(), "its tensorboard is a symbolic link")


def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError), new_file(tmp_path / "a") as file:
        file.write(b"half")
        raise OSError(28, "No space left on device")
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("preset: ${oc.env:HOME}", "plain values"),
        ("a: &a [1]\npreset: *a", "aliases"),
        ("preset: !!python/name:os.system", "could not determine a constructor"),
        ("preset: 2020-01-01", "a date"),
        ("{" * 10_000, "cannot read"),
        ("[]", "no settings"),
        ("#" * (1 << 20) + "#", "larger than"),
        ("? [1]\n: 2", "cannot read"),
    ],
)
def test_settings_are_plain_values(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        read_settings(tmp_path)
    assert str(tmp_path / "config.yaml") in str(caught.value) and "\n" not in str(caught.value)


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_git_is_asked_about_the_projects_own_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "checkout" / "torchrl_td" / "experiment"
    package.mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(package / "run_folder.py"))
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "another project")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert module._git_commit() == "unknown"
    monkeypatch.delenv("GIT_DIR")
    git(tmp_path / "checkout", "init", "-q")
    git(tmp_path / "checkout", "commit", "-q", "--allow-empty", "-m", "this one")
    monitor = tmp_path / "monitor"
    monitor.write_text(f"#!/bin/sh\ntouch {tmp_path / 'boom'}\n")
    monitor.chmod(0o755)
    git(tmp_path / "checkout", "config", "core.fsmonitor", str(monitor))
    assert module._git_commit() == git(tmp_path / "checkout", "rev-parse", "HEAD")
    assert not (tmp_path / "boom").exists()
