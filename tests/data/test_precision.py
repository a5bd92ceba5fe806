"""What float32 cannot hold of what a source holds: a word, and no false alarm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from tests.data.helpers import WriteMinari
from torchrl_td.data import load_episodes
from torchrl_td.data.validation import check_precision


def test_a_clock_in_the_observation(warned: list[str]) -> None:
    state = torch.randn(41, 3, dtype=torch.float64)
    state[:, 1] = 1.7e9 + 0.02 * torch.arange(41, dtype=torch.float64)
    steps = TensorDict(
        observation=state[:-1],
        action=torch.rand(40, 2),
        next=TensorDict(
            observation=state[1:],
            reward=torch.rand(40, 1),
            done=torch.arange(40).unsqueeze(-1) % 20 == 19,
            batch_size=[40],
        ),
        batch_size=[40],
    )
    load_episodes(steps)
    (line,) = warned  # one, not another of the next observation
    assert line.startswith("tensordict: observation loses its digits in float32, in dimension 1:")
    warned.clear()
    for key in ("observation", ("next", "observation")):
        steps[key][:, 1] -= 1.7e9
    load_episodes(steps)
    assert warned == []


@pytest.mark.parametrize(
    "value",
    [
        1.7e9 + torch.arange(400, dtype=torch.float64) * 0.02,
        1e6 + 0.1 * torch.randn(400, dtype=torch.float64),
        2**40 + torch.arange(400),
    ],
)
def test_digits_that_are_lost(value: torch.Tensor, warned: list[str]) -> None:
    check_precision(torch.stack([torch.zeros_like(value), value], -1), "mine", "observation")
    assert len(warned) == 1 and "in dimension 1:" in warned[0]


@pytest.mark.parametrize(
    "value",
    [
        torch.randn(400, dtype=torch.float64),
        1e-9 * torch.randn(400, dtype=torch.float64),
        1e4 + torch.randn(400, dtype=torch.float64),
        torch.full((400,), 0.1, dtype=torch.float64),
        0.1 + 1e-15 * torch.randn(400, dtype=torch.float64),  # rounding of a simulation
        torch.tensor([0.0, torch.nan], dtype=torch.float64),
        torch.arange(400),
        1.7e9 + torch.randn(400),  # float32 already
        torch.zeros(0, dtype=torch.float64),
    ],
)
def test_digits_that_are_kept(value: torch.Tensor, warned: list[str]) -> None:
    check_precision(value, "mine", "observation")
    assert warned == []


def test_an_entry_of_a_dict(write_minari: WriteMinari, warned: list[str]) -> None:
    write_minari("made/exact-v0", goal=True)
    load_episodes("minari:made/exact-v0", observation_keys=["observation"], cache=False)
    assert warned == []
    state = {"clock": 1e9 + np.arange(9.0), "pose": np.random.default_rng(0).random((9, 2))}
    now, after = (
        {k: torch.as_tensor(v[rows]).reshape(8, -1) for k, v in state.items()}
        for rows in (slice(8), slice(1, 9))
    )
    end = {"reward": torch.ones(8, 1), "done": torch.arange(8).unsqueeze(-1) == 7}
    steps = {"observation": now, "action": torch.rand(8, 1), "next": {"observation": after, **end}}
    load_episodes(TensorDict(steps, batch_size=[8]))
    assert [w.partition(" loses")[0] for w in warned] == ["tensordict: observation/clock"]
