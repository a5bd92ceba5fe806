"""Episodes as they were recorded: what the files hold, in one order, whatever the format."""

from __future__ import annotations

import importlib.util

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from torchrl.envs.transforms import Reward2GoTransform

from tests.data.helpers import Check, WriteMinari, main_file
from torchrl_td.data import (
    load_episodes,
    returns_to_go,
)
from torchrl_td.data.sources import minari as minari_module

ENDS = ("done", "terminated", "truncated")


HAS_ARROW = importlib.util.find_spec("pyarrow") is not None


FORMATS = [
    "hdf5",
    pytest.param("arrow", marks=pytest.mark.skipif(not HAS_ARROW, reason="needs pyarrow")),
]


def test_pointmaze_equals_its_file(tiny_pointmaze: str, check_equal: Check) -> None:
    data = load_episodes(tiny_pointmaze)
    episodes, vectors = [], []
    with h5py.File(main_file("pointmaze/umaze-v0")) as file:
        for number in range(12):
            group = file[f"episode_{number}"]
            columns = ("actions", "rewards", "terminations", "truncations")
            episodes.append({key: group[key][()] for key in columns})
            entries = [group["observations"][key][()] for key in ("observation", "desired_goal")]
            vectors.append(np.concatenate(entries, -1))  # (x, y, vx, vy, goal x, goal y)
    check_equal(data, episodes, vectors)
    assert data.shape == (3600,) and data["observation"].shape == (3600, 6)
    for key, value in data.items(True, True):
        kind = torch.int64 if key == "episode" else torch.bool if key[-1] in ENDS else torch.float32
        assert value.dtype == kind and value.device == torch.device("cpu"), key
    moved = load_episodes(tiny_pointmaze, device="meta")
    assert moved["observation"].device.type == "meta"


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("lengths", [(4, 1, 6), (5,), (1,), (1, 1)])
def test_every_format_and_length(
    data_format: str, lengths: tuple[int, ...], write_minari: WriteMinari, check_equal: Check
) -> None:
    episodes = write_minari(lengths=lengths, data_format=data_format)
    data = load_episodes("minari:made/plain-v0")
    check_equal(data, episodes, [e["observations"] for e in episodes])


@pytest.mark.parametrize("data_format", FORMATS)
def test_nested_goals_are_joined_in_the_documented_order(
    data_format: str, write_minari: WriteMinari, check_equal: Check
) -> None:
    episodes = write_minari("made/goal-v0", goal=True, data_format=data_format)
    seen = [e["observations"] for e in episodes]
    want = [
        np.concatenate([o["observation"], o["desired_goal"]["a"], o["desired_goal"]["b"]], -1)
        for o in seen
    ]
    check_equal(load_episodes("minari:made/goal-v0"), episodes, want)
    chosen = [("achieved_goal", "b"), "observation"]
    want = [np.concatenate([o["achieved_goal"]["b"], o["observation"]], -1) for o in seen]
    check_equal(load_episodes("minari:made/goal-v0", observation_keys=chosen), episodes, want)


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("chunk", [1, 5, 7])
def test_parts_join_seamlessly(
    chunk: int,
    data_format: str,
    monkeypatch: pytest.MonkeyPatch,
    write_minari: WriteMinari,
    check_equal: Check,
) -> None:
    episodes = write_minari(lengths=(4, 1, 6, 2, 3), data_format=data_format)
    monkeypatch.setattr(minari_module, "CHUNK_STEPS", chunk)
    data = load_episodes("minari:made/plain-v0", cache=False)
    check_equal(data, episodes, [e["observations"] for e in episodes])


@given(
    st.lists(
        st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=12), min_size=1, max_size=8
    )
)
def test_returns_to_go_closed_form(rewards: list[list[float]]) -> None:
    flat = torch.tensor([r for episode in rewards for r in episode])
    done = torch.tensor([i == len(e) - 1 for e in rewards for i in range(len(e))])
    want = [sum(e[i:]) for e in rewards for i in range(len(e))]
    got = returns_to_go(flat, done)
    assert got.dtype == torch.float64
    assert np.allclose(got, want, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize(
    ("done", "want"), [([True, False, False], [1.0, 6.0, 4.0]), ([False] * 3, [7.0, 6.0, 4.0])]
)
def test_the_last_step_ends_an_episode_whatever_it_says(
    done: list[bool], want: list[float]
) -> None:
    flags = torch.tensor(done)
    assert returns_to_go(torch.tensor([1.0, 2.0, 4.0]), flags).tolist() == want
    assert flags.tolist() == done


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8))
def test_returns_to_go_equal_torchrls(lengths: list[int]) -> None:
    reward = torch.randn(sum(lengths), generator=torch.Generator().manual_seed(0)).double()
    done = torch.zeros(sum(lengths), dtype=torch.bool)
    done[torch.tensor(lengths).cumsum(0) - 1] = True
    transform = Reward2GoTransform(gamma=1.0, out_keys=["reward_to_go"])
    data = TensorDict(
        {"next": {"reward": reward[:, None], "done": done[:, None], "terminated": done[:, None]}},
        batch_size=[sum(lengths)],
    )
    want = transform.inv(data)["reward_to_go"].squeeze(-1)
    assert torch.allclose(returns_to_go(reward, done), want.double(), atol=1e-5)


def test_long_sums_stay_exact() -> None:
    reward = torch.full((1_000_000,), 0.1)
    done = torch.zeros(1_000_000, dtype=torch.bool)
    done[499_999::500_000] = True
    assert returns_to_go(reward, done)[500_000].item() == pytest.approx(
        500_000 * float(reward[0]), rel=1e-12
    )
