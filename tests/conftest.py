"""Fixtures that several test files share; the run's settings stand in the root's conftest.py."""

from __future__ import annotations

import copy
import multiprocessing
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mujoco
import pytest
import torch

from tests.graph_stand_in import Tape
from tests.settings import TINY_RUN, composed
from torchrl_td.config import Config
from torchrl_td.experiment import evaluate, evaluator, experiment
from torchrl_td.inference import cuda_graphs as graph_replay

TINY_EPISODES = 12
UMAZE_EPISODE_STEPS = 300


@pytest.fixture(scope="session")
def tiny_pointmaze(datasets_path: Path) -> str:
    """Source of a recorded `pointmaze/umaze` dataset of 12 episodes of 300 steps."""
    from torchrl_td.data.mazes.pointmaze import record_pointmaze

    steps = TINY_EPISODES * UMAZE_EPISODE_STEPS
    # Should a test have recorded the full dataset before, the tiny one takes its place.
    return "minari:" + record_pointmaze("umaze", steps, seed=0, overwrite=True, progress=False)


@pytest.fixture(scope="session", autouse=True)
def _models_compiled_once() -> Iterator[None]:
    """Environments of one model share its compilation; each has a copy of it.

    A maze's takes 60 ms, for the picture of its sky, and a test of runs builds dozens of them.
    """
    compiled: dict[tuple[bytes, Path], mujoco.MjModel] = {}
    compile_model = mujoco.MjModel.from_xml_path

    def once(filename: str) -> mujoco.MjModel:
        file = Path(filename)
        key = (file.read_bytes(), file.parent)  # what it includes is said relative to it
        if key not in compiled:
            compiled[key] = compile_model(filename)
        return copy.copy(compiled[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mujoco.MjModel, "from_xml_path", once)
        yield


def _placeholder(*arguments: Any, **_: Any) -> None:
    path = next(value for value in reversed(arguments) if isinstance(value, Path))
    path.write_bytes(b"")


@pytest.fixture(autouse=True)
def _quick_endings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's end draws and times much, which most tests ask nothing of.

    The mark `pictures` has them drawn.
    """
    monkeypatch.setattr(evaluate, "TIMED_PLANS", 2)
    if "pictures" not in request.keywords:
        monkeypatch.setattr(experiment, "plot_training", _placeholder)
        monkeypatch.setattr(evaluator, "show_plans", _placeholder)


@pytest.fixture
def tiny_config(tiny_pointmaze: str, tmp_path: Path) -> Callable[..., Config]:
    """Composes the checked settings of a tiny run on the tiny dataset, with words over them."""

    def make(*words: str) -> Config:
        given = [*TINY_RUN, f"dataset.source={tiny_pointmaze}", f"output_dir={tmp_path / 'run'}"]
        return composed(*given, *words)

    return make


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """Has tapes take the place of CUDA graphs; those recorded."""
    recorded: list[Tape] = []

    def record(function: Callable[[], Any], device: torch.device) -> Any:
        recorded.append(Tape())
        with recorded[-1]:
            outputs = function()
        return recorded[-1].replay, outputs

    monkeypatch.setattr(graph_replay, "capture", record)
    monkeypatch.setattr(graph_replay, "on_side_stream", lambda function, device: function())
    return recorded


@pytest.fixture
def forking() -> Iterator[None]:
    """Forks worker processes, for spawned ones take seconds to import PyTorch anew."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("fork", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 3 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this machine cannot mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
