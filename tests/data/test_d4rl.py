"""D4RL's files: cut into episodes as they say, and refused in one line where they are broken."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrl.data.datasets import d4rl as torchrl_d4rl

from tests.data.helpers import SAMPLE
from torchrl_td.data import load_episodes
from torchrl_td.data.sources.d4rl import STEP_LIMITS, _after_limit, step_limit
from torchrl_td.data.validation import warn_once
from torchrl_td.errors import InputError
from torchrl_td.experiment.run import run


def write(path: Path, lengths: tuple[int, ...] = (5, 3, 4), **replace: Any) -> Path:
    """A small file of D4RL's layout; the last step of each episode is a terminal.

    An entry is replaced by an array, or left out where it is None.
    """
    rng = np.random.default_rng(0)
    count = sum(lengths)
    terminals = np.zeros(count, dtype=bool)
    terminals[np.cumsum(lengths, dtype=int) - 1] = True
    entries: dict[str, Any] = {
        "observations": rng.normal(size=(count, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, size=(count, 2)).astype(np.float32),
        "rewards": rng.normal(size=count).astype(np.float32),
        "terminals": terminals,
        "timeouts": np.zeros(count, dtype=bool),
    }
    entries.update(replace)
    with h5py.File(path, "w") as file:
        for key, value in entries.items():
            if value is not None:
                file[key] = value
    return path


def arrays(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {key: file[key][()] for key in file}


def test_the_real_sample_is_loaded_row_by_row() -> None:
    assert SAMPLE.stat().st_size <= 200_000
    data, raw = load_episodes(f"d4rl:{SAMPLE}"), arrays(SAMPLE)
    assert data.shape == (600,)  # the last transitions are kept
    assert np.array_equal(data["observation"], raw["observations"])
    assert np.array_equal(data["action"], raw["actions"])
    assert np.array_equal(data["next", "reward"][:, 0], raw["rewards"])
    assert np.array_equal(data["next", "terminated"][:, 0], raw["terminals"])
    assert np.array_equal(data["next", "truncated"][:, 0], raw["timeouts"])
    assert torch.bincount(data["episode"]).tolist() == [200, 100, 200, 100]
    done = data["next", "done"][:, 0]
    inner = ~done[:-1]
    following = data["next", "observation"]
    assert torch.equal(following[:-1][inner], data["observation"][1:][inner])
    # The file does not hold what followed an episode's last step.
    assert torch.equal(following[done], data["observation"][done])
    for episode in range(4):
        rows = data["episode"] == episode
        total = raw["rewards"].astype(np.float64)[rows.numpy()].sum()
        assert data["returns_to_go"][rows][0].item() == pytest.approx(total, rel=1e-6)
        assert data["next", "returns_to_go"][rows][-1].item() == pytest.approx(0, abs=1e-5)


def test_without_timeouts_the_step_limit_of_the_name_ends_episodes(tmp_path: Path) -> None:
    raw = arrays(SAMPLE)
    path = tmp_path / "door-v0_without_timeouts.hdf5"
    with h5py.File(path, "w") as file:
        for key in set(raw) - {"timeouts"}:
            file[key] = raw[key]
    data, want = load_episodes(f"d4rl:{path}"), load_episodes(f"d4rl:{SAMPLE}")
    # D4RL marks a timeout at every 200th step, which is the environment's limit.
    assert all(torch.equal(data[key], want[key]) for key in want.keys(True, True))
    other = load_episodes(f"d4rl:{path}", max_episode_steps=150)
    assert torch.bincount(other["episode"]).tolist() == [150, 150, 150, 150]
    assert other["next", "terminated"].sum() == 2 and other["next", "truncated"].sum() == 2


def test_what_is_played_for_does_not_cut_the_data(tiny_config: Any, tmp_path: Path) -> None:
    """A task of 500 steps cut a file of episodes of 200, whose name tells so, at 500."""
    raw = arrays(SAMPLE)
    path = tmp_path / "door-v0_without_timeouts.hdf5"
    with h5py.File(path, "w") as file:
        for key in set(raw) - {"timeouts"}:
            file[key] = raw[key]
    played = ("task.env=null", "evaluation.episodes=0", "task.max_episode_steps=500")
    run(tiny_config(f"dataset.source=d4rl:{path}", *played, "training.steps=1"))
    found = json.loads((tmp_path / "run" / "results.json").read_text())["dataset"]
    assert found["episodes"] == int(load_episodes(f"d4rl:{SAMPLE}")["episode"][-1]) + 1


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    tail=st.integers(0, 9),
    limit=st.integers(1, 5),
)
def test_the_step_limit_counts_from_each_start(lengths: list[int], tail: int, limit: int) -> None:
    terminated = torch.zeros(sum(lengths) + tail, dtype=torch.bool)
    terminated[torch.tensor(lengths).cumsum(0) - 1] = True
    want, step = [], 0
    for end in terminated.tolist():
        step += 1
        want.append(step == limit)
        if end or step == limit:
            step = 0
    got = _after_limit(terminated, limit) | terminated
    assert got.tolist() == [a or b for a, b in zip(want, terminated.tolist(), strict=True)]


def test_next_observations_are_used_where_present(tmp_path: Path) -> None:
    following = np.random.default_rng(1).normal(size=(12, 3)).astype(np.float32)
    data = load_episodes(f"d4rl:{write(tmp_path / 'a.hdf5', next_observations=following)}")
    assert np.array_equal(data["next", "observation"], following)


def test_what_the_files_end_cuts_off_is_left_out(tmp_path: Path, warned: list[str]) -> None:
    terminals = np.array([0, 0, 1, 0, 0], dtype=bool)
    source = f"d4rl:{write(tmp_path / 'a.hdf5', (5,), terminals=terminals)}"
    for _ in range(2):  # read, and from the cache
        assert load_episodes(source)["episode"].tolist() == [0, 0, 0]
        assert any("1 of 2 trajectories (2 of 5 steps) end neither" in w for w in warned)
        warned.clear()
        warn_once.cache_clear()


@settings(max_examples=15)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=12), chunk=st.integers(1, 20))
def test_parts_join_seamlessly(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], chunk: int
) -> None:
    path = write(tmp_path_factory.mktemp("parts") / "a.hdf5", tuple(lengths))
    whole = load_episodes(f"d4rl:{path}", cache=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchrl_td.data.sources.d4rl.CHUNK_STEPS", chunk)
        parts = load_episodes(f"d4rl:{path}", cache=False)
    assert torch.bincount(whole["episode"]).tolist() == lengths
    assert all(torch.equal(parts[key], whole[key]) for key in whole.keys(True, True))


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("hopper-medium-v0", 1000),
        ("folder/hopper_medium-v2.hdf5", 1000),
        ("pen-v0_demos_clipped.hdf5", 100),
        ("maze2d-large-v1", 800),
        ("Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse.hdf5", 700),
        ("antmaze-large-play-v2", 1000),
        ("mine.hdf5", None),
        ("pendulum.hdf5", None),
        ("doorman_human.hdf5", None),
        ("Ant_maze_u-maze_noisy_multistart_True.hdf5", 700),
        ("ant-expert-v2", 1000),
    ],
)
def test_step_limits_by_name(name: str, limit: int | None) -> None:
    assert step_limit(name) == limit


def test_most_of_d4rls_ids_have_a_step_limit() -> None:
    known = [name for name in torchrl_d4rl.D4RL_DATASETS if step_limit(name)]
    for start in STEP_LIMITS:
        if not start.startswith(("ant-", "mini-")):  # as the files are called
            assert any(name.startswith(start) for name in known), start


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (
        lambda p: p.write_bytes(write(p).read_bytes()[:3000]),
        r"a\.hdf5: not a readable HDF5 file \(.*truncated.*get it again",
    ),
    "foreign": (lambda p: p.write_bytes(b"\x89PNG\r\n" * 99), "not a readable HDF5 file"),
    "empty file": (lambda p: p.write_bytes(b""), "not a readable HDF5 file"),
    "no key": (lambda p: write(p, actions=None), "key 'actions' is missing .it holds observ"),
    "group": (lambda p: write(p, actions=None, **{"actions/a": np.ones(3)}), "actions is not an"),
    "lengths": (lambda p: write(p, actions=np.ones((7, 2))), "actions has 7 rows but observ.* 12"),
    "next lengths": (
        lambda p: write(p, next_observations=np.ones((11, 3))),
        "next_observations has 11 rows but observations 12",
    ),
    "text": (
        lambda p: write(p, observations=np.array([b"x"] * 12)),
        r"observations has dtype \|S1, not numbers; convert it",
    ),
    "integer actions": (
        lambda p: write(p, actions=np.ones((12, 2), np.int64)),
        "actions has dtype torch.int64, but only continuous actions",
    ),
    "flags": (
        lambda p: write(p, terminals=np.linspace(0, 1, 12)),
        "terminals must be one 0 or 1 a step",
    ),
    "NaN": (
        lambda p: write(p, rewards=np.array([0.0] * 9 + [np.nan] * 3)),
        r"rewards holds NaN or Inf, first in row 9 \(episode 2\); drop or mend",
    ),
    "Inf": (
        lambda p: write(p, observations=np.full((12, 3), np.inf)),
        r"observations holds NaN or Inf, first in row 0 \(episode 0\)",
    ),
    "beyond float32": (
        lambda p: write(p, observations=np.full((12, 3), 1e300)),
        "observations holds NaN or Inf",
    ),
    "no steps": (
        lambda p: write(
            p,
            (),
            observations=np.ones((0, 3)),
            actions=np.ones((0, 2)),
            rewards=np.ones(0),
            terminals=np.ones(0, bool),
            timeouts=np.ones(0, bool),
        ),
        "it holds no steps",
    ),
    "several rewards": (
        lambda p: write(p, rewards=np.ones((12, 2))),
        "rewards has several numbers a step",
    ),
    "next width": (
        lambda p: write(p, next_observations=np.ones((12, 4))),
        "observations 3 and next_observations 4 numbers a step differ",
    ),
    "zeros": (
        lambda p: write(p, observations=np.zeros((12, 3))),
        "observation is all zero, so it was not read or not recorded",
    ),
    "no ends": (
        lambda p: write(p, terminals=np.zeros(12, bool), timeouts=None),
        "neither terminals nor timeouts mark .* pass max_episode_steps",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    make, message = BROKEN[case]
    path = tmp_path / "a.hdf5"
    make(path)
    with pytest.raises(InputError, match=message) as caught:
        load_episodes(f"d4rl:{path}")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_block_inside_a_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    write(path, observations=None)
    with h5py.File(path, "a") as file:
        values = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
        entry = file.create_dataset("observations", data=values, chunks=(12, 3), fletcher32=True)
        offset = entry.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + 5] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a readable HDF5 file") as caught:
        load_episodes(f"d4rl:{path}")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("d4rl:hoper-medium-v2", "did you mean hopper-medium-v2"),
        ("d4rl:nowhere/file.hdf5", "there is no such file; give the path"),
        ("d4rl:", "unknown data source 'd4rl:'"),
        ("hdf5:file", "unknown data source 'hdf5:file': use 'minari:<id>', 'd4rl:<id or path>'"),
    ],
)
def test_unknown_sources(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_episodes(source)
    assert "\n" not in str(caught.value)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        load_episodes(f"d4rl:{tmp_path}")


def test_observation_keys_are_for_dicts() -> None:
    data = load_episodes(f"d4rl:{SAMPLE}", observation_keys=["observation"])
    assert data["observation"].shape == (600, 39)
    with pytest.raises(InputError, match="observations has no entry 'velocity'; choose obs"):
        load_episodes(f"d4rl:{SAMPLE}", observation_keys=["velocity"])


@pytest.fixture
def d4rl_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "d4rl"
    monkeypatch.setenv("D4RL_DATASET_DIR", str(folder))
    return folder


def test_an_id_takes_the_file_that_is_there(d4rl_folder: Path) -> None:
    d4rl_folder.mkdir()
    (d4rl_folder / "door-v0_demos_clipped.hdf5").write_bytes(SAMPLE.read_bytes())
    assert load_episodes("d4rl:door-human-v0").shape == (600,)


def test_without_a_network_one_line_while_the_lookup_hangs(
    d4rl_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up, over = threading.Event(), threading.Event()

    def hang(*args: Any, **kwargs: Any) -> Any:
        given_up.wait(30)  # as the lookup of a name can hang, which no time limit ends
        over.set()
        raise TimeoutError

    monkeypatch.setattr(urllib.request, "urlopen", hang)
    monkeypatch.setattr("torchrl_td.data.sources.download.PATIENCE", 0.3)
    with pytest.raises(InputError, match=r"berkeley\.edu cannot be reached .no answer") as caught:
        load_episodes("d4rl:hopper-medium-v2")
    assert not over.is_set()
    given_up.set()
    assert "hopper_medium-v2.hdf5 by hand and put it at" in str(caught.value)
    assert str(d4rl_folder) in str(caught.value) and "\n" not in str(caught.value)


def test_an_id_is_downloaded_once_and_whole(
    d4rl_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchrl_td.data.sources.d4rl.require_network", lambda *_: None)
    calls = []

    def retrieve(url: str, path: str) -> None:
        calls.append(url)
        if len(calls) == 1:
            Path(path).write_bytes(SAMPLE.read_bytes()[:5000])
            raise urllib.error.ContentTooShortError("retrieval incomplete", None)
        Path(path).write_bytes(SAMPLE.read_bytes())

    monkeypatch.setattr(urllib.request, "urlretrieve", retrieve)
    with pytest.raises(InputError, match=r"cannot be downloaded .*by hand"):
        load_episodes("d4rl:door-human-v0")
    assert not list(d4rl_folder.glob("*"))  # nothing that looks like the file
    assert load_episodes("d4rl:door-human-v0").shape == (600,)
    assert load_episodes("d4rl:door-human-v0").shape == (600,)
    assert len(calls) == 2 and calls[1].endswith("door-v0_demos_clipped.hdf5")
