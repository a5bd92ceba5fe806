"""Random numbers: a part's own, and the states that a checkpoint keeps."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from torchrl_td.training.random_state import RandomState, own_randomness

CPU = torch.device("cpu")


def test_own_randomness_is_its_own() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    torch.manual_seed(1)
    expected = (torch.rand(()), torch.rand(()))
    torch.manual_seed(1)
    first = torch.rand(())
    with own_randomness(3):
        one = draw()
    with own_randomness(3):
        assert draw() == one
    assert (first, torch.rand(())) == expected


def test_random_states_of_another_machine() -> None:
    """A checkpoint made on a machine of two GPUs goes on where there is none."""
    torch.manual_seed(1)
    state = RandomState(CPU).state_dict()
    assert "device" not in state
    expected = torch.rand(3)
    gpu = torch.zeros(16, dtype=torch.uint8)
    RandomState(CPU).load_state_dict(state | {"device": gpu})
    assert torch.equal(torch.rand(3), expected)


def test_every_process_goes_on_with_the_noise_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each on a GPU of its own, in place of which stand their states."""
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    states = {first: torch.tensor([1]), second: torch.tensor([2])}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device])
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: states.update({device: state})
    )
    saved = RandomState(first).state_dict()
    assert saved.keys() == {"python", "numpy", "torch_cpu", "device"}
    RandomState(second).load_state_dict(saved)
    assert states == {first: 1, second: 1}


@pytest.mark.gpu
def test_random_state_of_a_gpu() -> None:
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    kept = RandomState(device)
    state, drawn = kept.state_dict(), torch.rand(3, device=device)
    kept.load_state_dict(state)
    assert torch.equal(torch.rand(3, device=device), drawn)
