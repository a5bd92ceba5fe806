"""Packed steps are the steps, whichever way they are asked for."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import TensorDictReplayBuffer, TensorStorage

from tests.data.helpers import same
from torchrl_td.data import WindowSampler
from torchrl_td.training.packed_storage import PackedStorage


def steps(count: int = 90) -> TensorDict:
    return TensorDict(
        observation=torch.randn(count, 3),
        action=torch.randn(count, 2),
        returns_to_go=torch.randn(count, 1),
        episode=torch.arange(count) // 30,
        next=TensorDict(
            observation=torch.randn(count, 3),
            returns_to_go=torch.randn(count, 1),
            done=torch.zeros(count, 1, dtype=torch.bool),
            batch_size=[count],
        ),
        batch_size=[count],
    )


def test_windows_are_those_of_an_ordinary_storage() -> None:
    data = steps()
    packed, plain = (
        TensorDictReplayBuffer(storage=storage, sampler=WindowSampler(6, seed=4), batch_size=16)
        for storage in (PackedStorage(data), TensorStorage(data))
    )
    for _ in range(5):
        got, want = packed.sample(), plain.sample().exclude("episode", ("next", "done"))
        assert same(got, want)


def test_a_slice_or_a_number_gives_every_entry() -> None:
    data = steps()
    storage = PackedStorage(data)
    assert len(storage) == 90
    for index in (slice(0, 90), slice(20, 30), 7, torch.arange(90) > 80):
        got, want = storage.get(index), data[index]
        assert same(got, want)


def test_what_is_written_is_what_is_read() -> None:
    data, new = steps(), steps(2)
    storage = PackedStorage(data)
    storage.set(range(5, 7), new)
    index = torch.tensor([4, 5, 6, 7])
    want = torch.cat([data["action"][4:5], new["action"], data["action"][7:8]])
    assert torch.equal(storage.get(index)["action"], want)
    assert not torch.equal(data["action"][5:7], new["action"])  # the given steps stay as they were


@pytest.mark.parametrize(
    "data",
    [steps().select("episode"), TensorDict(pixels=torch.zeros(4, 3, 8, 8), batch_size=[4])],
)
def test_what_cannot_be_packed(data: TensorDict) -> None:
    with pytest.raises(ValueError, match="float32 entries of shape"):
        PackedStorage(data)
