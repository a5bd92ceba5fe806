"""The recording of the default data: real physics, the same for a seed, whole or not at all."""

from __future__ import annotations

import fcntl
import functools
import os
import signal
import sys
import threading
import time
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from torchrl import torchrl_logger

from tests.data.helpers import ends_soon, forked
from torchrl_td.data import load_episodes
from torchrl_td.data.mazes import processes, record
from torchrl_td.data.mazes.controller import Skill, Walker, free_cells, shortest_path
from torchrl_td.data.mazes.once import _is_at, _locked, _release, make_once
from torchrl_td.data.mazes.pointmaze import (
    POINTMAZE_TASKS,
    ensure_pointmaze,
    make_pointmaze,
    pointmaze_task,
    record_pointmaze,
    walk_episode,
)
from torchrl_td.errors import InputError


@pytest.fixture
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A datasets folder of this test alone."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def umaze():
    env = make_pointmaze("umaze")
    yield env
    env.close()


def contents(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a recording by their names in the file."""
    found: dict[str, np.ndarray] = {}

    def visit(name: str, entry: object) -> None:
        if isinstance(entry, h5py.Dataset):
            found[name] = entry[()]

    with h5py.File(path / "pointmaze/umaze-v0/data/main_data.hdf5") as file:
        file.visititems(visit)
    return found


def test_the_environment_replays_a_recorded_episode(tiny_pointmaze: str, umaze) -> None:
    dataset = minari.load_dataset(tiny_pointmaze.removeprefix("minari:"))
    episode = dataset[3]
    about = next(iter(dataset.storage.get_episode_metadata([3])))
    options = {key: np.asarray(value) for key, value in about["options"].items()}
    observation, _ = umaze.reset(seed=about["seed"], options=options)
    for step, action in enumerate(episode.actions):
        for key, value in observation.items():
            assert np.array_equal(value, episode.observations[key][step]), (step, key)
        observation, reward, terminated, truncated, _ = umaze.step(action)
        assert reward == episode.rewards[step]
        assert (terminated, truncated) == (
            episode.terminations[step],
            episode.truncations[step],
        )
    assert truncated and not terminated and len(episode.actions) == 300


def test_reward_is_paid_at_the_goal_which_is_kept(tiny_pointmaze: str) -> None:
    dataset = minari.load_dataset(tiny_pointmaze.removeprefix("minari:"))
    paid = 0.0
    for episode in dataset.iterate_episodes():
        goal = episode.observations["desired_goal"]
        assert np.all(goal == goal[0])
        distance = np.linalg.norm(episode.observations["achieved_goal"] - goal, axis=-1)[1:]
        assert np.array_equal(episode.rewards, (distance <= 0.45).astype(float))
        paid += episode.rewards.sum()
        assert np.all(np.abs(episode.actions) <= 1)
    assert paid > 0


def test_metadata_recovers_the_environment_and_its_references(tiny_pointmaze: str) -> None:
    dataset = minari.load_dataset(tiny_pointmaze.removeprefix("minari:"))
    metadata = dataset.storage.metadata
    task = POINTMAZE_TASKS["umaze"]
    assert metadata["ref_min_score"] == task.ref_min_score == 23.85
    assert metadata["ref_max_score"] == task.ref_max_score == 161.86
    env = dataset.recover_environment()
    assert env.spec.id == "PointMaze_UMaze-v3" and env.spec.max_episode_steps == 300
    env.reset(seed=0, options={"goal_cell": np.array([1, 1]), "reset_cell": np.array([1, 1])})
    goal = env.unwrapped.goal.copy()
    for _ in range(50):  # stands on the goal, which neither ends the episode nor moves away
        _, reward, terminated, _, _ = env.step(np.zeros(2, np.float32))
        assert reward == 1 and not terminated and np.array_equal(env.unwrapped.goal, goal)
    env.close()


def test_same_seed_same_recording_for_any_number_of_workers(empty_path: Path) -> None:
    recordings = []
    for seed, workers in ((0, 1), (0, 2), (1, 1)):
        record_pointmaze(
            "umaze", 9 * 300, seed, workers=workers, overwrite=bool(recordings), progress=False
        )
        recordings.append(contents(empty_path))
    first, parallel, other = recordings
    assert first.keys() == parallel.keys()
    assert all(np.array_equal(first[key], parallel[key]) for key in first)
    assert not np.array_equal(first["episode_0/actions"], other["episode_0/actions"])


def test_skill_raises_the_return(umaze) -> None:
    returns = [
        np.mean(
            [
                walk_episode(umaze, 5, i, skill=s, goal_cell=(1, 1))["rewards"].sum()
                for i in range(12)
            ]
        )
        for s in (0.0, 0.5, 1.0)
    ]
    assert returns[0] + 30 < returns[1] < returns[2] - 10


def test_skills_are_spread_over_the_recording(tiny_pointmaze: str) -> None:
    dataset = minari.load_dataset(tiny_pointmaze.removeprefix("minari:"))
    skills = [m["skill"] for m in dataset.storage.get_episode_metadata(range(12))]
    assert min(skills) >= 0 and max(skills) <= 1 and np.ptp(skills) > 0.4
    assert Skill.from_level(0).speed < Skill.from_level(1).speed


def test_ensure_records_once(empty_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ensure_pointmaze("umaze", steps=300, progress=False) == "pointmaze/umaze-v0"
    monkeypatch.setattr("torchrl_td.data.mazes.pointmaze.record_pointmaze", None)  # no second time
    assert ensure_pointmaze("umaze") == "pointmaze/umaze-v0"
    assert minari.load_dataset("pointmaze/umaze-v0").total_steps == 300


def test_of_two_that_want_it_one_records_it(
    empty_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun, go_on = tmp_path / "begun", tmp_path / "go_on"

    def slowly(size: Any, **kwargs: Any) -> None:
        begun.touch(exist_ok=False)  # a second recording fails
        while not go_on.exists():
            time.sleep(0.01)
        record_pointmaze(size, **kwargs)

    monkeypatch.setattr("torchrl_td.data.mazes.pointmaze.record_pointmaze", slowly)
    monkeypatch.setattr(torchrl_logger, "info", lambda said: go_on.write_text(said))
    want = functools.partial(ensure_pointmaze, "umaze", steps=300, progress=False)
    first = get_context("fork").Process(target=want)
    first.start()
    while not begun.exists():
        time.sleep(0.01)
    want()
    assert "another process makes minari:pointmaze/umaze-v0" in go_on.read_text()
    assert minari.load_dataset("pointmaze/umaze-v0").total_steps == 300
    first.join()
    assert first.exitcode == 0 and not list(empty_path.glob(".making-*"))


def test_what_one_fails_to_record_the_next_records(
    empty_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="steps >= 1"):
        ensure_pointmaze("umaze", steps=0)
    killed = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr("torchrl_td.data.mazes.pointmaze.record_pointmaze", killed)
        assert forked(lambda: ensure_pointmaze("umaze")) == -signal.SIGKILL
    assert list(empty_path.glob(".making-*"))
    assert not minari.list_local_datasets()
    ensure_pointmaze("umaze", steps=300, progress=False)
    assert not list(empty_path.glob(".making-*"))


def test_one_that_stops_waiting_leaves_the_lock_to_the_others(
    empty_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, waits = empty_path / ".making-made-plain-v0.lock", tmp_path / "waits"
    lock = _locked(path, "made/plain-v0")
    monkeypatch.setattr(torchrl_logger, "info", lambda said: waits.write_text(said))

    def wait() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist ignores it
        make_once("made/plain-v0", lambda: None)

    other = get_context("fork").Process(target=wait)
    other.start()
    while not waits.exists():
        time.sleep(0.01)
    os.kill(other.pid or 0, signal.SIGINT)
    other.join()
    assert other.exitcode == 1 and _is_at(path, lock)
    _release(path, lock)
    assert not path.exists()


def test_who_waited_locks_the_file_that_is_there_now(
    empty_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before it failed and removed its own, and a third may have locked the next."""
    path, waits = empty_path / "lock", threading.Event()
    monkeypatch.setattr(torchrl_logger, "info", lambda said: waits.set())
    before, found = _locked(path, "made/plain-v0"), []
    waiting = threading.Thread(target=lambda: found.append(_locked(path, "made/plain-v0")))
    waiting.start()
    assert waits.wait(10)
    _release(path, before)
    waiting.join()
    assert _is_at(path, found[0])
    with pytest.raises(BlockingIOError), path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _release(path, found[0])


def test_what_cannot_be_made_says_so_whatever_lock_was_left(
    empty_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that another user left can be opened, and not be removed."""
    (empty_path / ".making-made-plain-v0.lock").touch()

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "not permitted")

    def make() -> None:
        raise InputError("in one line")

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(InputError, match="in one line"):
        make_once("made/plain-v0", make)
    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(InputError, match="in one line"):
        make_once("made/plain-v0", make)


@pytest.mark.parametrize("progress", [True, False])
def test_loading_records_with_a_bar_unless_told_not_to(
    progress: bool, empty_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    few = functools.partial(ensure_pointmaze, steps=300)
    monkeypatch.setattr("torchrl_td.data.sources.minari.ensure_pointmaze", few)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)  # bars need a terminal
    assert len(load_episodes("minari:pointmaze/umaze-v0", progress=progress)) == 300
    assert ("recording pointmaze/umaze" in capfd.readouterr().err) == progress


def test_a_killed_recording_leaves_no_dataset(
    empty_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = minari.create_dataset_from_buffers

    def killed(*args: Any, **kwargs: Any) -> None:
        create(*args, **kwargs)  # all is on the disk, but not yet in its place
        os.kill(os.getppid(), signal.SIGKILL)  # which has it written by another process

    with monkeypatch.context() as patch:
        patch.setattr(minari, "create_dataset_from_buffers", killed)
        ended = forked(lambda: record_pointmaze("umaze", 600, progress=False))
    assert ended == -signal.SIGKILL
    assert list(empty_path.rglob("main_data.hdf5"))  # it had got that far
    assert not (empty_path / "pointmaze/umaze-v0").exists()
    assert not minari.list_local_datasets()
    ensure_pointmaze("umaze", steps=300, progress=False)
    assert minari.load_dataset("pointmaze/umaze-v0").total_steps == 300


def test_a_recording_that_fails_keeps_the_one_before(
    empty_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_pointmaze("umaze", 300, progress=False)
    before = contents(empty_path)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(minari, "create_dataset_from_buffers", full)
    with pytest.raises(InputError, match=r"no dataset can be written .*No space left"):
        record_pointmaze("umaze", 300, seed=1, overwrite=True, progress=False)
    after = contents(empty_path)
    assert all(np.array_equal(before[key], after[key]) for key in before)
    assert os.environ["MINARI_DATASETS_PATH"] == str(empty_path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pointmaze_task("huge"), "'huge'.*umaze, medium, large"),
        (lambda: record_pointmaze("huge"), "'huge'.*umaze, medium, large"),
        (lambda: record_pointmaze("umaze", steps=0), "steps >= 1"),
        (lambda: record_pointmaze("umaze", workers=0), "workers >= 1"),
    ],
)
def test_bad_arguments(call, message: str, empty_path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_recording_is_not_overwritten_unasked(tiny_pointmaze: str) -> None:
    with pytest.raises(InputError, match="umaze-v0 exists; replace it with overwrite=True"):
        record_pointmaze("umaze", 300, progress=False)


@pytest.mark.parametrize("size", POINTMAZE_TASKS)
def test_every_cell_is_reached_by_a_shortest_path(size: str) -> None:
    env = make_pointmaze(size)
    maze_map = env.unwrapped.maze.maze_map
    env.close()
    cells = free_cells(maze_map)
    goal = POINTMAZE_TASKS[size].goal_cell
    assert goal in cells
    for start in cells:
        path = shortest_path(maze_map, start, goal)
        assert path[0] == start and path[-1] == goal and len(set(path)) == len(path)
        assert all(abs(a - c) + abs(b - d) == 1 for (a, b), (c, d) in pairwise(path))
        assert set(path) <= set(cells)
        # No neighbour of a cell is nearer by more than the one step between them.
        for a, b in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            if (start[0] + a, start[1] + b) in cells:
                other = shortest_path(maze_map, (start[0] + a, start[1] + b), goal)
                assert abs(len(other) - len(path)) <= 1


def test_no_path_is_an_error() -> None:
    with pytest.raises(ValueError, match="no path from cell"):
        shortest_path([[0, 1, 0]], (0, 0), (0, 2))


def test_the_walker_stays_within_bounds_and_heads_for_its_target() -> None:
    steady = Skill(speed=5.0, noise=0.0, pause_rate=0.0, pause_length=1.0, detour=0.0)
    walker = Walker([(3.0, 0.0)], steady, np.random.default_rng(0))
    assert walker.act(0.0, 0.0, 0.0, 0.0) == (1.0, 0.0)
    shaky = Skill(speed=5.0, noise=50.0, pause_rate=0.1, pause_length=3.0, detour=0.0)
    walker = Walker([(3.0, 0.0)], shaky, np.random.default_rng(0))
    actions = np.array([walker.act(0.0, 0.0, 0.0, 0.0) for _ in range(200)])
    assert np.abs(actions).max() <= 1


def test_a_full_disk_is_one_line(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 would end the process with a segmentation fault."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(small_disk))
    monkeypatch.setattr(record, "_OVERHEAD", 1 << 20)  # to walk less
    with pytest.raises(InputError, match=r"no dataset can be written .*No space left") as caught:
        record_pointmaze("umaze", 9 * 300, progress=False)
    assert str(small_disk) in str(caught.value) and "\n" not in str(caught.value)
    assert not list(small_disk.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_before_walking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("torchrl_td.data.mazes.pointmaze._walk_all", None)
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
        with pytest.raises(InputError, match="MINARI_DATASETS_PATH") as caught:
            load_episodes("minari:pointmaze/umaze-v0")
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes as Linux does")
def test_a_worker_ends_with_the_process_that_was_killed(tmp_path: Path) -> None:
    said = tmp_path / "worker"

    def parent() -> None:
        number = os.getpid()
        if os.fork() == 0:
            processes.end_with(number)
            said.write_text(str(os.getpid()))
            time.sleep(60)
        while not said.exists():
            time.sleep(0.01)
        os.kill(number, signal.SIGKILL)

    assert forked(parent) == -signal.SIGKILL
    assert ends_soon(int(said.read_text()))
