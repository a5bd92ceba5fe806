"""Windows from the buffers that TorchRL knows, beside its SliceSampler on the same ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torchrl.data import (
    LazyMemmapStorage,
    LazyTensorStorage,
    ReplayBuffer,
    SliceSampler,
    TensorDictReplayBuffer,
    TensorStorage,
)

from torchrl_td.data import WindowSampler
from torchrl_td.errors import InputError

HORIZON = 4


def lane(lengths: list[int], which: int = 0) -> TensorDict:
    """What an environment goes through: (environment and trajectory, time) at each step [T]."""
    number = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)) + 100 * which
    time = torch.cat([torch.arange(n) for n in lengths])
    done = torch.cat([torch.arange(n) == n - 1 for n in lengths])
    return TensorDict(
        observation=torch.stack([number, time], -1).float(),
        collector={"traj_ids": number},
        next={"done": done.unsqueeze(-1)},
        batch_size=[len(number)],
    )


def ring(size: int, sampler: object = None, **kwargs) -> TensorDictReplayBuffer:
    sampler = WindowSampler(HORIZON) if sampler is None else sampler
    return TensorDictReplayBuffer(
        storage=LazyTensorStorage(size, **kwargs), sampler=sampler, batch_size=200
    )


def check_follows(window: TensorDict) -> None:
    """Steps that are not masked are neighbours in one trajectory."""
    change = window["observation"].diff(dim=1)  # [B, T - 1, 2]
    real = window["mask"][:, 1:] & window["mask"][:, :-1]
    assert (change[real] == torch.tensor([0, 1])).all()


def rows_of(index: torch.Tensor | tuple[torch.Tensor, ...]) -> set[tuple]:
    """An index's sequences of HORIZON steps as a set."""
    index = torch.stack(index, -1) if isinstance(index, tuple) else index.unsqueeze(-1)
    return {tuple(row) for row in index.reshape(-1, HORIZON * index.shape[-1]).tolist()}


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    lanes=st.integers(1, 3),
    size=st.integers(6, 30),
    frames=st.integers(2, 20),
    two_dimensional=st.booleans(),
    by_end=st.booleans(),
)
def test_whole_plans_are_the_slices(lengths, lanes, size, frames, two_dimensional, by_end) -> None:
    """All plans without padding, and all slices of that length that SliceSampler draws."""
    count = (sum(lengths) + 5) // 2 * 2
    lanes = max(lanes, 1 + two_dimensional)  # TorchRL takes no [1, T] and no [B, 1] with ndim=2
    steps = torch.stack([lane([*lengths[i:], *lengths, 5], i)[:count] for i in range(lanes)])
    if by_end and not two_dimensional:
        steps = steps[:1]  # nothing tells the environments of a flat buffer apart
    keys = {"end_key": ("next", "done")} if by_end else {}
    buffer = ring(
        size * (len(steps) if two_dimensional else 1),
        WindowSampler(HORIZON, history=1, **keys),
        ndim=1 + two_dimensional,
    )
    frames = min(frames, size // lanes) // 2 * 2
    for batch in steps.split(frames, 1):  # [B, frames]
        buffer.extend(batch if two_dimensional else batch.reshape(-1))
    slices = SliceSampler(slice_len=HORIZON, truncated_key=None, **keys)
    try:
        buffer.sampler.refresh(buffer.storage)
    except InputError as error:
        assert "as long as the horizon" in str(error)
        with pytest.raises(RuntimeError, match="single trajectory with sufficient length"):
            slices.sample(buffer.storage, HORIZON)
        return
    index, info = buffer.sampler.window(buffer.storage, torch.arange(len(buffer)))
    whole = info["mask"].all(1)
    index = tuple(i[whole] for i in index) if two_dimensional else index[whole]
    torch.manual_seed(0)
    drawn, _ = slices.sample(buffer.storage, HORIZON * 3000)
    assert rows_of(index) == rows_of(drawn if two_dimensional else drawn[0])
    check_follows(buffer.sample())


@pytest.mark.parametrize("keys", [{}, {"end_key": ("next", "done")}])
def test_a_history_stops_where_older_steps_were_overwritten(keys: dict) -> None:
    buffer = ring(20, WindowSampler(HORIZON, **keys))
    buffer.extend(lane([20]))
    buffer.extend(lane([7, 8], 1))  # steps 0 to 14 are gone, and trajectory 0 goes on in row 15
    index, info = buffer.sampler.window(*_refreshed(buffer, [15, 14, 7]))
    assert index[:, :3].tolist() == [[15, 15, 15], [12, 13, 14], [7, 7, 7]]
    assert info["mask"].tolist() == [
        [False, False, True, True, True, True],
        [True, True, True, False, False, False],
        [False, False, True, True, True, True],
    ]


def test_a_trajectory_across_the_end_of_the_ring() -> None:
    buffer = ring(10)
    for batch in lane([8, 6, 9]).split(7):
        buffer.extend(batch)  # 23 steps; the last ten: trajectory 1's last and trajectory 2
    index, info = buffer.sampler.window(*_refreshed(buffer, [9]))
    assert index.tolist() == [[7, 8, 9, 0, 1, 2]]
    assert info["mask"].all()
    check_follows(buffer.sample())


def test_strides_across_the_end_of_the_ring() -> None:
    buffer = ring(12, WindowSampler(3, history=1, stride=2))
    steps = lane([6, 12])
    steps["next", "observation"] = steps["observation"] + torch.tensor([0, 1])
    for batch in steps.split(6):
        buffer.extend(batch)
    index, info = buffer.sampler.window(*_refreshed(buffer, [9]))
    assert index.tolist() == [[9, 11, 1]]
    assert info["next", "observation"][0, :, 1].tolist() == [5, 7, 9]
    assert info["next", "known"].all()


def _refreshed(buffer: TensorDictReplayBuffer, present: list[int]) -> tuple:
    buffer.sampler.refresh(buffer.storage)
    return buffer.storage, torch.tensor(present)


def test_environments_side_by_side() -> None:
    """A storage [T, B], whose samples hold both coordinates of every step."""
    steps = torch.stack([lane([9, 8]), lane([6, 11], 1)])  # [B, T]
    buffer = ring(40, ndim=2)
    buffer.extend(steps)
    window = buffer.sample()
    assert window.shape == (200, 6) and window["index"].shape == (200, 6, 2)
    check_follows(window)
    at = window["index"].unbind(-1)
    assert torch.equal(window["observation"], steps["observation"].transpose(0, 1)[at])
    present = window["index"][:, 2, 0] * 2 + window["index"][:, 2, 1]
    assert len(present.unique()) == 34  # every step of both
    flat = ring(40)
    flat.extend(steps.transpose(0, 1).contiguous())
    with pytest.raises(InputError, match="ndim that counts the environments"):
        flat.sample()


# --- what is stored changes ------------------------------------------------------------------


def _extend(buffer: TensorDictReplayBuffer) -> None:
    buffer.extend(lane([9, 21], 1))


def _empty_and_extend(buffer: TensorDictReplayBuffer) -> None:
    buffer.empty()
    buffer.extend(lane([9, 21], 1))


def _set_rows(buffer: TensorDictReplayBuffer) -> None:
    buffer[:] = lane([9, 21], 1)


def _write_in_place(buffer: TensorDictReplayBuffer) -> None:
    buffer.storage.get(slice(None)).update_(lane([9, 21], 1))


def _replace_storage(buffer: TensorDictReplayBuffer) -> None:
    buffer.set_storage(TensorStorage(lane([9, 21], 1)))


@pytest.mark.parametrize(
    "change", [_extend, _empty_and_extend, _set_rows, _write_in_place, _replace_storage]
)
@pytest.mark.parametrize("storage", [LazyTensorStorage, LazyMemmapStorage])
def test_a_change_is_noticed(change, storage: type) -> None:
    """The number of steps stays the same and the trajectories' ends do not."""
    buffer = TensorDictReplayBuffer(
        storage=storage(30), sampler=WindowSampler(HORIZON), batch_size=300
    )
    buffer.extend(lane([20, 10]))
    buffer.sample()
    change(buffer)
    window = buffer.sample()
    assert set(window["observation"][..., 0].flatten().tolist()) == {100, 101}
    check_follows(window)


def test_extending_after_sampling_is_noticed() -> None:
    buffer = ring(100)
    buffer.extend(lane([20, 10]))
    assert buffer.sample()["observation"][..., 0].max() == 1
    buffer.extend(lane([15, 25], 1))
    window = buffer.sample()
    assert set(window["observation"][..., 0].flatten().tolist()) == {0, 1, 100, 101}
    check_follows(window)


def test_a_buffer_with_nothing_in_it() -> None:
    buffer = ring(100)
    buffer.extend(lane([20]))
    buffer.empty()
    with pytest.raises(InputError, match="empty; extend it"):
        buffer.sampler.sample(buffer.storage, 4)


def test_a_buffer_without_names() -> None:
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(9), sampler=WindowSampler(HORIZON), batch_size=4
    )
    buffer.extend(torch.zeros(9, 3))
    with pytest.raises(InputError, match="drawn from tensordicts"):
        buffer.sample()


# --- random numbers, saving and other processes ----------------------------------------------


def _draws(how: str, seed: int) -> torch.Tensor:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(seed)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(50),
        sampler=WindowSampler(HORIZON),
        batch_size=64,
        generator=generator if how == "generator" else None,
    )
    buffer.extend(lane([20, 30]))
    if how == "set_rng":
        buffer.set_rng(generator)
    if how == "manual_seed":
        torch.manual_seed(seed)
    return torch.stack([buffer.sample()["index"] for _ in range(2)])


@pytest.mark.parametrize("how", ["manual_seed", "generator", "set_rng"])
def test_the_seed_decides(how: str) -> None:
    assert torch.equal(_draws(how, 1), _draws(how, 1))
    assert not torch.equal(_draws(how, 1), _draws(how, 2))
    assert not torch.equal(*_draws(how, 1))


@pytest.mark.parametrize("how", ["dumps", "state_dict"])
def test_a_saved_ring_goes_on(how: str, tmp_path: Path) -> None:
    """With its own generator, in the middle of a ring whose ends only the writer knows."""

    def buffer() -> TensorDictReplayBuffer:
        return TensorDictReplayBuffer(
            storage=LazyMemmapStorage(30),
            sampler=WindowSampler(HORIZON, end_key=("next", "done")),
            batch_size=300,
            generator=torch.Generator().manual_seed(3),
        )

    kept, other = buffer(), buffer()
    for batch in lane([20, 24]).split(11):
        kept.extend(batch)
    kept.sample()
    if how == "dumps":
        kept.dumps(tmp_path)
        other.loads(tmp_path)
    else:
        other.extend(lane([30], 1))
        other.load_state_dict(kept.state_dict())
    for _ in range(2):
        window = other.sample()
        check_follows(window)
        assert torch.equal(window["index"], kept.sample()["index"])


def _extend_and_draw(buffer: TensorDictReplayBuffer) -> None:
    buffer.extend(lane([9, 21], 1))
    check_follows(buffer.sample())


def test_another_process_writes() -> None:
    """The sampler travels, drawn from already; both sides see what either wrote."""
    buffer = TensorDictReplayBuffer(
        storage=LazyMemmapStorage(60),
        sampler=WindowSampler(HORIZON),
        batch_size=400,
        shared=True,
    )
    buffer.extend(lane([20, 10]))
    buffer.sample()
    process = mp.get_context("spawn").Process(target=_extend_and_draw, args=(buffer,))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    window = buffer.sample()
    assert set(window["observation"][..., 0].flatten().tolist()) == {0, 1, 100, 101}
    check_follows(window)
