"""A corpus of small files of others, one a kind: each is refused in its line, or loads.

Whatever is done to such a file's bytes, what comes out is what the file holds, or one line that
names it. With ``FUZZ=2000`` in the environment that is tried longer.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from tests.corpus.files import D4RL, MINARI, UNUSUAL, d4rl_file, on_file
from tests.data.conftest import write
from tests.data.helpers import main_file, same
from torchrl_td.data import load_episodes
from torchrl_td.errors import InputError

pytestmark = pytest.mark.stranger("data files")


@pytest.mark.parametrize("kind", D4RL)
def test_d4rl_files_that_are_refused(kind: str, tmp_path: Path) -> None:
    change, message = D4RL[kind]
    d4rl_file(tmp_path / "secret.hdf5")
    path = d4rl_file(tmp_path / "mine.hdf5", change)
    with pytest.raises(InputError, match=message) as caught:
        load_episodes(f"d4rl:{path}", cache=False)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_d4rl_files_load(kind: str, tmp_path: Path) -> None:
    plain = load_episodes(f"d4rl:{d4rl_file(tmp_path / 'plain.hdf5')}", cache=False)
    path = d4rl_file(tmp_path / "mine.hdf5", UNUSUAL[kind])
    assert same(load_episodes(f"d4rl:{path}", cache=False), plain)


@pytest.mark.parametrize("kind", MINARI)
def test_minari_datasets_that_are_refused(kind: str) -> None:
    write("made/strange-v0", goal=True)
    harm, message = MINARI[kind]
    harm()
    with pytest.raises(InputError, match=message) as caught:
        load_episodes("minari:made/strange-v0", cache=False)
    assert "made/strange-v0" in str(caught.value) and "\n" not in str(caught.value)


def test_an_unfinished_episode_of_minari_is_left_out(warned: list[str]) -> None:
    write("made/strange-v0")
    want = load_episodes("minari:made/strange-v0", cache=False)
    on_file(lambda f: f["episode_1/terminations"].write_direct(np.zeros(1, bool)))()
    data = load_episodes("minari:made/strange-v0", cache=False)
    assert data["episode"].tolist() == [0] * 4 + [1] * 6
    kept = want[want["episode"] != 1]
    assert same(data.exclude("episode"), kept.exclude("episode"))
    assert "1 of 3 trajectories (1 of 11 steps) end neither" in warned[0]


@pytest.mark.parametrize("linked", ["folder", "file"])
def test_a_change_behind_a_link_is_noticed(linked: str, tmp_path: Path) -> None:
    """The cache knows what a dataset's links lead to, and not the links alone."""
    write("made/linked-v0")
    place = main_file("made/linked-v0").parent
    there = tmp_path / "there"
    if linked == "folder":
        shutil.move(place, there)
        place.symlink_to(there)
    else:
        there.mkdir()
        shutil.move(place / "main_data.hdf5", there)
        (place / "main_data.hdf5").symlink_to(there / "main_data.hdf5")
    before = load_episodes("minari:made/linked-v0")
    with h5py.File(there / "main_data.hdf5", "a") as file:
        file["episode_0/rewards"][0] = 123.0
    after = load_episodes("minari:made/linked-v0")
    assert after["next", "reward"][0] == 123 and before["next", "reward"][0] != 123
    shutil.rmtree(minari.storage.get_dataset_path("made/linked-v0"), ignore_errors=True)


# --- whatever is done to a file ---------------------------------------------------------------

BUDGET = settings(
    max_examples=int(os.environ.get("FUZZ", "30")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# Where, and what is put there: one byte, several, or nothing that follows.
DAMAGE = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=8)), min_size=1, max_size=4
)


def damaged(content: bytes, damages: list[tuple[float, bytes]]) -> bytes:
    """The content with bytes replaced; no bytes cut it off."""
    for place, replaced in damages:
        at = int(place * len(content))
        content = content[:at] + replaced + content[at + len(replaced) :] * bool(replaced)
    return content


def loaded_or_refused(source: str, name: str) -> TensorDict | None:
    """The data, or None where it is refused in one line that names the file."""
    try:
        return load_episodes(source, cache=False, progress=False)
    except InputError as error:
        assert name in str(error) and "\n" not in str(error)
        return None


def check_equal_rows(data: TensorDict, steps: dict[str, np.ndarray], ends: np.ndarray) -> None:
    """Data is the steps of finished episodes, and nothing else."""
    assert len(data) == len(ends) and np.array_equal(data["next", "done"][:, 0], ends)
    for key, value in steps.items():
        have = data[tuple(key.split("/"))].numpy()
        assert np.array_equal(have, value.reshape(have.shape).astype(np.float32)), key


@BUDGET
@given(DAMAGE)
def test_any_damage_to_a_d4rl_file(tmp_path: Path, damages: list[tuple[float, bytes]]) -> None:
    path = d4rl_file(tmp_path / "hopper.hdf5")
    path.write_bytes(damaged(path.read_bytes(), damages))
    data = loaded_or_refused(f"d4rl:{path}", str(path))
    if data is None:
        return
    with h5py.File(path) as file:
        ends = (file["terminals"][()] != 0) | (file["timeouts"][()] != 0)
        count = int(np.flatnonzero(ends)[-1]) + 1
        steps = {"observation": "observations", "action": "actions", "next/reward": "rewards"}
        check_equal_rows(data, {k: file[v][:count] for k, v in steps.items()}, ends[:count])


@BUDGET
@given(DAMAGE, st.sampled_from(["main_data.hdf5", "metadata.json"]))
def test_any_damage_to_a_minari_dataset(damages: list[tuple[float, bytes]], name: str) -> None:
    write("made/fuzzed-v0")
    path = main_file("made/fuzzed-v0").parent / name
    path.write_bytes(damaged(path.read_bytes(), damages))
    data = loaded_or_refused("minari:made/fuzzed-v0", "made/fuzzed-v0")
    if data is None:
        return
    total = json.loads((path.parent / "metadata.json").read_text())["total_episodes"]
    kept: dict[str, list[np.ndarray]] = {"action": [], "next/reward": [], "ends": []}
    with h5py.File(main_file("made/fuzzed-v0")) as file:
        for number in range(total):
            group = file[f"episode_{number}"]
            ends = group["terminations"][()] | group["truncations"][()]
            count = int(np.flatnonzero(ends)[-1]) + 1 if ends.any() else 0
            for key, value in zip(kept, (group["actions"], group["rewards"], ends), strict=True):
                kept[key].append(value[:count])
    steps = {key: np.concatenate(values) for key, values in kept.items()}
    check_equal_rows(data, steps, steps.pop("ends"))
