"""Minari datasets that are broken, missing or far away: refused in one line, or fetched whole."""

from __future__ import annotations

import json
import shutil
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest

from tests.data.helpers import Check, WriteMinari, main_file
from torchrl_td.data import load_episodes
from torchrl_td.data.sources import download as download_module
from torchrl_td.errors import InputError


def edit(change: Callable[[h5py.File], Any]) -> Callable[[], None]:
    def run() -> None:
        with h5py.File(main_file(), "a") as file:
            change(file)

    return run


def replaced(key: str, value: Any) -> Callable[[], None]:
    def change(file: h5py.File) -> None:
        del file[key]
        if value is not None:
            file[key] = value

    return edit(change)


def metadata(**replace: Any) -> Callable[[], None]:
    def run() -> None:
        path = main_file().parent / "metadata.json"
        content = {**json.loads(path.read_text()), **replace}
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return run


nan = np.ones((7, 3))
nan[3, 1] = np.nan


BROKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "truncated": (
        lambda: main_file().write_bytes(main_file().read_bytes()[:4000]),
        "not a readable HDF5 file .*truncated.* get it again",
    ),
    "foreign": (lambda: main_file().write_bytes(b"PK\3\4" * 99), "not a readable HDF5 file"),
    "no file": (lambda: main_file().unlink(), "not a readable HDF5 file .there is no such file"),
    "no metadata": (
        lambda: (main_file().parent / "metadata.json").unlink(),
        "not a readable Minari dataset",
    ),
    "broken metadata": (
        lambda: (main_file().parent / "metadata.json").write_text("{"),
        "not a readable Minari dataset",
    ),
    "no spaces": (metadata(observation_space=None), "metadata.json has no 'observation_space'"),
    "other id": (metadata(dataset_id="made/plain-v3"), "it holds made/plain-v3, not made/plain-v0"),
    "no episodes": (metadata(total_episodes=0), "it holds no episodes"),
    "missing episode": (metadata(total_episodes=4), "holds 3 episodes where metadata.json says 4"),
    "no actions": (replaced("episode_2/actions", None), "episode 2 has no 'actions'"),
    "actions of entries": (
        edit(
            lambda f: (
                f["episode_2"].move("actions", "taken"),
                f.__setitem__("episode_2/actions/push", np.ones((6, 2))),
            )
        ),
        "episode 2: actions have several entries, and plans are made for one vector",
    ),
    "an image": (
        metadata(
            observation_space=json.dumps({"type": "Box", "dtype": "uint8", "shape": [64, 64, 3]})
        ),
        "observation_space is an image, .*; record the dataset without it$",
    ),
    "no observations": (
        replaced("episode_1/observations", None),
        "episode 1 has no 'observations'",
    ),
    "lengths": (
        replaced("episode_2/rewards", np.ones(5)),
        "episode 2: rewards has 5 rows where 6 actions need 6",
    ),
    "one observation short": (
        replaced("episode_2/observations", np.ones((6, 3))),
        "episode 2: observations has 6 rows where 6 actions need 7",
    ),
    "zero length": (
        edit(
            lambda f: [
                (f.__delitem__(f"episode_1/{k}"), f.__setitem__(f"episode_1/{k}", v))
                for k, v in {
                    "actions": np.ones((0, 2), np.float32),
                    "observations": np.ones((1, 3)),
                }.items()
            ]
        ),
        "episode 1 has no steps; remove it",
    ),
    "text": (
        replaced("episode_0/observations", np.array([b"x"] * 5)),
        r"episode 0: observations has dtype \|S1, not numbers",
    ),
    "integer actions": (
        edit(
            lambda f: [
                (f.__delitem__(f"episode_{i}/actions"), f.__setitem__(f"episode_{i}/actions", v))
                for i, v in enumerate([np.ones((n, 2), np.int64) for n in (4, 1, 6)])
            ]
        ),
        "actions has dtype torch.int64, but only continuous",
    ),
    "NaN": (
        replaced("episode_2/observations", nan),
        r"observations holds NaN or Inf, first in row 8 \(episode 2\); drop or mend",
    ),
    "other width": (
        replaced("episode_2/observations", np.ones((7, 4))),
        r"made/plain-v0: ",
    ),
    "zeros": (
        edit(
            lambda f: [
                f[f"episode_{i}/actions"].write_direct(np.zeros((n, 2), np.float32))
                for i, n in enumerate((4, 1, 6))
            ]
        ),
        "action is all zero",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_datasets_are_refused_in_one_line(case: str, write_minari: WriteMinari) -> None:
    write_minari()
    harm, message = BROKEN[case]
    harm()
    with pytest.raises(InputError, match=message) as caught:
        load_episodes("minari:made/plain-v0")
    assert "made/plain-v0" in str(caught.value) and "\n" not in str(caught.value)


def test_metadata_that_names_an_environment_runs_nothing(write_minari: WriteMinari) -> None:
    write_minari()
    spec = '{"id": "X-v0", "entry_point": "os:mkdir", "kwargs": {"path": "harm"}}'
    metadata(observation_space=None, env_spec=spec)()
    with pytest.raises(InputError, match="has no 'observation_space'"):
        load_episodes("minari:made/plain-v0")
    assert not Path("harm").exists()


@pytest.mark.parametrize("dataset_id", ["plain", "../x", "a b-v0", "made/plain-vx"])
def test_what_is_no_id(dataset_id: str) -> None:
    with pytest.raises(InputError, match="no Minari id, which looks like"):
        load_episodes(f"minari:{dataset_id}")


def test_another_version_is_named(
    monkeypatch: pytest.MonkeyPatch, write_minari: WriteMinari
) -> None:
    write_minari()

    def no_answer(url: str, name: str, remedy: str) -> None:
        raise InputError(f"{name} {url} cannot be reached; {remedy}")

    monkeypatch.setattr(download_module, "require_network", no_answer)
    other = main_file().parents[2] / "of no version"
    (other / "data").mkdir(parents=True)
    try:  # its name is no id, so Minari's list of datasets fails
        with pytest.raises(InputError, match="use made/plain-v0, which is here, or run 'minari d"):
            load_episodes("minari:made/plain-v7")
    finally:
        shutil.rmtree(other)


def test_a_missing_dataset_is_downloaded_whole(
    monkeypatch: pytest.MonkeyPatch,
    datasets_path: Path,
    write_minari: WriteMinari,
    check_equal: Check,
) -> None:
    episodes = write_minari("made/origin-v0")
    origin = datasets_path / "made/origin-v0"
    place = datasets_path / "far/away-v0"
    shutil.rmtree(place, ignore_errors=True)
    calls = []

    def download(dataset_id: str) -> None:
        target = Path(minari.storage.get_dataset_path(dataset_id))
        shutil.copytree(origin, target)
        calls.append(target)
        if len(calls) == 1:
            raise ConnectionError("the network went away\nhalf way")
        path = target / "data" / "metadata.json"
        path.write_text(path.read_text().replace("made/origin-v0", dataset_id))

    monkeypatch.setattr(download_module, "require_network", lambda *_: None)
    monkeypatch.setattr(minari, "download_dataset", download)
    with pytest.raises(
        InputError, match=r"not downloaded \(the network went away half way"
    ) as caught:
        load_episodes("minari:far/away-v0")
    assert "minari download far/away-v0" in str(caught.value) and not place.exists()
    assert calls[0] != place  # it was written elsewhere first
    data = load_episodes("minari:far/away-v0")
    check_equal(data, episodes, [e["observations"] for e in episodes])
    load_episodes("minari:far/away-v0")
    assert len(calls) == 2


def test_without_a_network_one_line_while_the_lookup_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    given_up, over = threading.Event(), threading.Event()

    def hang(*args: Any, **kwargs: Any) -> Any:
        given_up.wait(30)  # as the lookup of a name can hang, which no time limit ends
        over.set()
        raise TimeoutError

    monkeypatch.setattr(urllib.request, "urlopen", hang)
    monkeypatch.setattr("torchrl_td.data.sources.download.PATIENCE", 0.3)
    with pytest.raises(InputError, match=r"huggingface\.co cannot be reached .no answer") as caught:
        load_episodes("minari:D4RL/door/human-v9")
    assert not over.is_set()
    given_up.set()
    assert "\n" not in str(caught.value)
    assert "minari download D4RL/door/human-v9" in str(caught.value)
