"""What a long run meets: kills, full disks, folders gone read-only, dying environments."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from tests import small_envs
from tests.data.helpers import ends_soon, forked
from tests.faults.kill import long_enough, saved_step, start, trial
from tests.settings import TINY_RUN, composed
from tests.test_run import assert_same_run
from torchrl_td.checkpoint import find_checkpoint, load_about
from torchrl_td.config import Config, TaskConfig
from torchrl_td.envs.make import make_env
from torchrl_td.errors import InputError
from torchrl_td.experiment.run import run

MakeConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def whole(tiny_pointmaze: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing befalls."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    source = f"dataset.source={tiny_pointmaze}"
    run(composed(*TINY_RUN, source, f"output_dir={folder}"))
    return folder


@pytest.mark.slow
def test_killed_at_random_moments(tiny_config: MakeConfig, tmp_path: Path) -> None:
    """Two kills; `python tests/faults/kill.py` makes twenty."""

    def make(*words: str) -> Config:
        return tiny_config(*long_enough(2), *words)

    found = trial(make, tmp_path, kills=2, seed=1)
    assert any(0 < kill["saved_step"] < 60 for kill in found)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.stranger("machines")
def test_the_disk_fills_up(small_disk: Path, tiny_config: MakeConfig, whole: Path) -> None:
    """The run ends in one line, what was saved stays, and it goes on once there is room."""
    output = f"output_dir={small_disk / 'run'}"
    run(tiny_config(output, "training.stop_after=4"))
    fill = small_disk / "fill"
    with pytest.raises(OSError), fill.open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
    with pytest.raises(InputError, match=r"free some space") as caught:
        run(tiny_config(output, "resume=auto"))
    assert "\n" not in str(caught.value)
    assert saved_step(small_disk / "run") == 4
    fill.unlink()
    run(tiny_config(output, "resume=auto"))
    assert_same_run(whole, small_disk / "run")


@pytest.mark.stranger("machines")
def test_the_folder_turns_read_only(small_disk: Path, tiny_config: MakeConfig) -> None:
    output = f"output_dir={small_disk / 'run'}"
    run(tiny_config(output, "training.stop_after=4"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(InputError, match="cannot write to output_dir") as caught:
        run(tiny_config(output, "resume=auto"))
    assert "\n" not in str(caught.value)
    assert saved_step(small_disk / "run") == 4
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)


def test_two_runs_into_one_folder(tiny_config: MakeConfig, tmp_path: Path) -> None:
    """The second is refused while the first, another process, goes on undisturbed."""
    process = start(tiny_config("training.steps=100000", "training.checkpoint_every=4"))
    try:
        while saved_step(tmp_path / "run") == 0:
            assert process.is_alive()
        for word in ("resume=auto", "resume=null"):
            with pytest.raises(InputError, match="another run is writing to output_dir="):
                run(tiny_config("training.steps=100000", word))
        assert process.is_alive()
    finally:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGTERM)
        process.join()
    assert process.exitcode == 0  # it saved and ended
    assert load_about(find_checkpoint(tmp_path / "run"))["step"] > 0


def test_a_damaged_newest_checkpoint_costs_its_own_steps_only(
    tiny_config: MakeConfig, tmp_path: Path, whole: Path
) -> None:
    run(tiny_config("training.stop_after=8"))
    (newest,) = (tmp_path / "run" / "checkpoint").glob("step-*8")
    next(newest.rglob("*training/state.pt")).write_bytes(b"")
    run(tiny_config("resume=auto"))
    assert_same_run(whole, tmp_path / "run")
    assert (newest.parent / f"damaged-{newest.name}").exists()


@pytest.mark.slow
def test_a_worker_dies_during_evaluation(tiny_config: MakeConfig, tmp_path: Path) -> None:
    """Training goes on; at the end the run says what failed, and the training is saved."""
    over = threading.Event()
    killed: list[int] = []

    def kill_workers() -> None:
        while not over.wait(0.2):
            for worker in multiprocessing.active_children():
                if worker.pid is not None and worker.pid not in killed:
                    time.sleep(0.5)  # in the middle of an episode
                    os.kill(worker.pid, signal.SIGKILL)
                    killed.append(worker.pid)
                    break

    killer = threading.Thread(target=kill_workers)
    killer.start()
    try:
        with pytest.raises(InputError, match="the training is saved: resume=") as caught:
            # Episodes without an end: only a death ends an evaluation.
            endless = ("task.max_episode_steps=1000000", "evaluation.workers=1")
            run(tiny_config(*endless, "training.evaluate_every=6"))
    finally:
        over.set()
        killer.join()
    assert "\n" not in str(caught.value) and "failed during evaluation" in str(caught.value)
    assert "evaluation.workers=0 shows" in str(caught.value)
    assert len(killed) >= 2  # the evaluation at step 6 and that at the end
    assert saved_step(tmp_path / "run") == 12


class Hangs(small_envs.Point):
    """Kills the run that it is played by, and goes on computing."""

    def step(self, action: Any):
        Path(os.environ["WORKER"]).write_text(str(os.getpid()))
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)


@pytest.mark.stranger("machines")
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes as Linux does")
def test_environments_end_with_the_run_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER", str(tmp_path / "worker"))

    def killed() -> None:
        gymnasium.register("Hangs-v0", Hangs)
        os.dup2(os.open(tmp_path / "said", os.O_CREAT | os.O_WRONLY), 2)
        resource_tracker._resource_tracker._fd = None  # the parent's
        multiprocessing.set_start_method("fork", force=True)  # spawning would import PyTorch anew
        env = make_env(TaskConfig(name="hangs", env="Hangs-v0"), 1, workers=1)
        left = multiprocessing.get_context("spawn").Semaphore()  # as spawned workers share
        (tmp_path / "tracker").write_text(str(resource_tracker._resource_tracker._pid))
        env.rollout(2)
        del left

    assert forked(killed) == -signal.SIGKILL
    for process in ("worker", "tracker"):
        assert ends_soon(int((tmp_path / process).read_text()))
    assert "leaked" not in (tmp_path / "said").read_text()
