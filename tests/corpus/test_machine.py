"""Folders that cannot be made, streams that cannot be written, settings beyond any machine."""

from __future__ import annotations

import io
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.helpers import SAMPLE, forked, same
from tests.settings import composed
from torchrl_td.config import Config, override_config
from torchrl_td.data import load_episodes
from torchrl_td.data.mazes.record_policy import make_environment, random_policy, record_dataset
from torchrl_td.errors import InputError

pytestmark = pytest.mark.stranger("machines")
ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "/proc/nowhere"  # where not even root makes a folder


@pytest.fixture(scope="module")
def config() -> Config:
    return composed()


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that cannot be written, and no other folder named."""
    for name in ("MINARI_DATASETS_PATH", "TORCHRL_TD_CACHE", "XDG_CACHE_HOME", "D4RL_DATASET_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", NOWHERE)


@pytest.mark.usefixtures("homeless")
def test_a_file_loads_without_a_cache() -> None:
    assert same(load_episodes(f"d4rl:{SAMPLE}"), load_episodes(f"d4rl:{SAMPLE}", cache=False))


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("name", ["pointmaze/umaze-v0", "maze2d/umaze-v0", "my/own-v0"])
def test_a_folder_of_datasets_that_cannot_be_made(name: str) -> None:
    with pytest.raises(InputError, match="MINARI_DATASETS_PATH") as caught:
        load_episodes(f"minari:{name}")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("homeless")
def test_d4rls_folder_that_cannot_be_made() -> None:
    with pytest.raises(InputError, match=r"d4rl:hopper-medium-v2: .*by hand") as caught:
        load_episodes("d4rl:hopper-medium-v2")
    assert "\n" not in str(caught.value)


def test_recording_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", NOWHERE)
    env = make_environment("Pendulum-v1")
    with pytest.raises(InputError, match="set MINARI_DATASETS_PATH to") as caught:
        record_dataset(env, "my/own-v0", random_policy(env), 10, progress=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("training.threads=5000", r"training\.threads=5000; allowed"),
        ("training.threads=100000", r"training\.threads=100000; allowed"),
        ("logger.project=a/b", "logger.project='a/b'; allowed are"),
        ("logger.project=''", "logger.project=''; allowed are"),
        (f"logger.project={'a' * 129}", "allowed are 1 to 128 characters"),
    ],
)
def test_settings_are_refused(word: str, says: str, config: Config) -> None:
    with pytest.raises(InputError, match=says) as caught:
        override_config(config, [word])
    assert "\n" not in str(caught.value)


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def unread() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


STREAMS: dict[str, Callable[[], int]] = {
    "ascii": lambda: os.open(os.devnull, os.O_WRONLY),
    "full": full,
    "a pipe that nobody reads": unread,
}


@pytest.mark.parametrize("kind", STREAMS)
def test_output_that_cannot_be_written(kind: str, tmp_path: Path) -> None:
    """Of the description of a dataset, whose numbers are in the file that was asked for."""

    def describe() -> None:
        os.dup2(STREAMS[kind](), 1)
        os.dup2(os.open(tmp_path / "errors", os.O_WRONLY | os.O_CREAT), 2)
        sys.stdout, sys.stderr = io.TextIOWrapper(io.FileIO(1, "w"), "ascii"), os.fdopen(2, "w")
        sys.argv = ["td_data.py", "describe", f"d4rl:{SAMPLE}", "--json", str(tmp_path / "numbers")]
        runpy.run_path(str(ROOT / "examples" / "td_data.py"), run_name="__main__")
        sys.stdout.flush()  # as Python does at its end

    assert forked(describe) == 0, (tmp_path / "errors").read_text()
    assert "Traceback" not in (tmp_path / "errors").read_text()
    assert "\033" not in (tmp_path / "errors").read_text()
    assert (tmp_path / "numbers").stat().st_size > 0
