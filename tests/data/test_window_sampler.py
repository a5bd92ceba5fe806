"""Windows drawn through a real replay buffer, against windows cut by a loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torchrl.data import (
    LazyMemmapStorage,
    LazyStackStorage,
    LazyTensorStorage,
    ListStorage,
    TensorDictReplayBuffer,
)
from torchrl.modules import MLP

from torchrl_td.data import WindowSampler
from torchrl_td.errors import InputError
from torchrl_td.modules import (
    DiffusionRefiner,
    InverseDynamics,
    NoiseSchedule,
    TrajectoryGenerator,
)
from torchrl_td.networks import TemporalUNet, TrajectoryTransformer
from torchrl_td.objectives import (
    DiffusionRefinerLoss,
    InverseDynamicsLoss,
    TrajectoryGeneratorLoss,
)
from torchrl_td.training.buffers import make_buffer


def episodes(lengths: list[int], column: bool = False, first: int = 0) -> TensorDict:
    """Steps that know who they are: state (episode, time), row number as action.

    What follows a step has the next time, also after the episode's last one, and its
    returns-to-go are half the steps that are left.
    """
    count = sum(lengths)
    episode = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)) + first
    time = torch.cat([torch.arange(n) for n in lengths])
    done = torch.cat([torch.arange(n) == n - 1 for n in lengths])
    left = torch.tensor(lengths).repeat_interleave(torch.tensor(lengths)) - time
    return TensorDict(
        observation=torch.stack([episode, time], -1).float(),
        action=torch.arange(count).unsqueeze(-1),
        returns_to_go=left.unsqueeze(-1) / 2,
        episode=episode.unsqueeze(-1) if column else episode,
        next=TensorDict(
            observation=torch.stack([episode, time + 1], -1).float(),
            returns_to_go=(left - 1).unsqueeze(-1) / 2,
            done=done.unsqueeze(-1),
            batch_size=[count],
        ),
        batch_size=[count],
    )


def buffer_of(
    data: TensorDict, batch_size: int = 64, storage: type = LazyTensorStorage, **kwargs
) -> TensorDictReplayBuffer:
    buffer = TensorDictReplayBuffer(
        storage=storage(len(data)), sampler=WindowSampler(**kwargs), batch_size=batch_size
    )
    buffer.extend(data)
    return buffer


def seeded_sample(buffer: TensorDictReplayBuffer, seed: int = 0) -> TensorDict:
    torch.manual_seed(seed)
    return buffer.sample()


def window_by_hand(
    lengths: list[int], row: int, history: int, horizon: int, stride: int = 1
) -> tuple[list[tuple[int, int]], list[bool]]:
    """(episode, time) and mask of the window whose present is a row of the dataset."""
    steps = [(e, t) for e, n in enumerate(lengths) for t in range(n)]
    episode, present = steps[row]
    entries, mask = [], []
    for t in range(present - stride * (history - 1), present + stride * horizon, stride):
        entries.append((episode, min(max(t, 0), lengths[episode] - 1)))
        mask.append(0 <= t < lengths[episode])
    return entries, mask


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    horizon=st.integers(2, 8),
    history=st.one_of(st.none(), st.integers(1, 9)),
    stride=st.integers(1, 4),
    column=st.booleans(),
    by_done=st.booleans(),
)
def test_windows_by_brute_force(lengths, horizon, history, stride, column, by_done) -> None:
    """Every row's window, with episodes told apart by number or by their done flags."""
    lengths = [*lengths, (horizon - 1) * stride + 1]  # one at least must be long enough
    data = episodes(lengths, column)
    if by_done:
        del data["episode"]
    buffer = buffer_of(data, 32, horizon=horizon, history=history, stride=stride)
    sampler = buffer.sampler
    window = buffer.sample()
    past = horizon - 1 if history is None else history
    assert sampler.length == past + horizon - 1
    assert window.shape == window["mask"].shape == (32, sampler.length)
    assert window["mask"].dtype is torch.bool and window["mask"][:, past - 1].all()
    for drawn in window:
        row = int(drawn["action"][past - 1])
        entries, mask = window_by_hand(lengths, row, past, horizon, stride)
        assert [tuple(x) for x in drawn["observation"].int().tolist()] == entries
        assert drawn["mask"].tolist() == mask
    index, info = sampler.window(buffer.storage, torch.arange(sum(lengths)))  # all there are
    for row in range(sum(lengths)):
        entries, mask = window_by_hand(lengths, row, past, horizon, stride)
        assert [tuple(x) for x in data["observation"][index[row]].int().tolist()] == entries
        assert info["mask"][row].tolist() == mask


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 20), max_size=6),
    horizon=st.integers(2, 6),
    stride=st.integers(2, 5),
    unknown=st.booleans(),
)
def test_what_follows_is_a_stride_on(lengths, horizon, stride, unknown) -> None:
    """State and returns-to-go that follow are those of time t + m, where there is one."""
    lengths = [*lengths, (horizon - 1) * stride + 1]
    data = episodes(lengths)
    if unknown:  # as of data that lacks what followed the last steps
        data["next", "known"] = 1 - data["next", "done"].float()
    window = buffer_of(data, 64, horizon=horizon, stride=stride).sample()
    following = window["next"]
    length = torch.tensor(lengths)[window["observation"][..., 0].int()]  # [B, T]
    later = window["observation"][..., 1] + stride  # [B, T]
    known = window["mask"] & ((later < length) if unknown else (later <= length))
    assert following["known"].dtype is torch.bool
    assert torch.equal(following["known"].squeeze(-1), known)
    assert torch.equal(following["observation"][known][:, 1], later[known])
    assert torch.equal(following["returns_to_go"][known][:, 0], (length - later)[known] / 2)
    mask = window["mask"]
    assert (following["returns_to_go"][mask & (later >= length)] == 0).all()
    assert torch.equal(following["done"][mask].squeeze(-1), (later >= length)[mask])
    within = mask[:, :-1] & mask[:, 1:]  # [B, T - 1]
    states = window["observation"]
    assert torch.equal(following["observation"][:, :-1][within], states[:, 1:][within])


def test_without_a_stride_nothing_is_added() -> None:
    keys = set(buffer_of(episodes([12, 9]), horizon=4).sample().keys(True, True))
    assert keys == set(episodes([3]).keys(True, True)) | {"mask", "index"}


def test_a_second_sampler_on_the_same_storage() -> None:
    """Many present states at once, with what follows, beside windows with a history."""
    data = episodes([12, 40])
    windows = buffer_of(data, 8, horizon=6)
    many = TensorDictReplayBuffer(
        storage=windows.storage, sampler=WindowSampler(5, history=1, stride=3), batch_size=512
    )
    assert windows.sample().shape == (8, 10)
    drawn = many.sample()
    assert drawn.shape == (512, 5) and drawn["mask"][:, 0].all()
    assert set(drawn["observation"][:, 0, 1].int().tolist()) == set(range(40))


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("history", [1, None])
def test_the_losses_take_every_kind_of_window(history: int | None, stride: int) -> None:
    horizon = 8
    data = episodes([40, 30]).float()
    data["episode"] = data["episode"].long()
    sampler = {"horizon": horizon, "history": history, "stride": stride}
    window = buffer_of(data, 16, **sampler).sample()
    generator = TrajectoryGenerator(TrajectoryTransformer(2, 14, width=16, layers=1))
    unet = TemporalUNet(2, channels=8, multipliers=(1, 2))
    losses = [
        TrajectoryGeneratorLoss(generator),
        DiffusionRefinerLoss(DiffusionRefiner(unet, NoiseSchedule()), horizon),
        InverseDynamicsLoss(InverseDynamics(MLP(4, 1, num_cells=(16,)))),
    ]
    for loss in losses:
        value = loss(window).get(loss.out_keys[0])
        value.backward()
        assert value.isfinite() and value > 0


def test_every_step_is_the_present_equally_often() -> None:
    """Evenly over steps: long episodes are drawn more often, short ones not left out."""
    lengths = [3, 40, 7, 1, 29]
    count, draws = sum(lengths), 80_000
    buffer = buffer_of(episodes(lengths), draws, horizon=4)
    rows = buffer.sample()["action"][:, 2, 0]
    observed = torch.bincount(rows, minlength=count).double()
    chi_square = ((observed - draws / count) ** 2 / (draws / count)).sum().item()
    assert len(observed) == count
    # Mean 79, standard deviation 12.6 if the draw is even; an uneven one is in the thousands.
    assert 79 - 5 * 12.6 < chi_square < 79 + 5 * 12.6


def test_short_histories_occur_as_often_as_in_play() -> None:
    lengths = [10] * 8
    buffer = buffer_of(episodes(lengths), 20_000, horizon=6)
    real = buffer.sample()["mask"][:, :5].sum(1)
    shares = torch.bincount(real, minlength=6).double() / 20_000
    assert shares[1:5].tolist() == pytest.approx([0.1] * 4, abs=0.012)
    assert shares[5].item() == pytest.approx(0.6, abs=0.016)


def test_memory_mapped_storage(tmp_path: Path) -> None:
    data = episodes([30, 12])
    mapped = TensorDictReplayBuffer(
        storage=LazyMemmapStorage(len(data), scratch_dir=tmp_path),
        sampler=WindowSampler(horizon=5),
        batch_size=16,
    )
    mapped.extend(data)
    plain = buffer_of(data, 16, horizon=5)
    for seed in range(3):
        got, want = (seeded_sample(buffer, seed) for buffer in (mapped, plain))
        assert torch.equal(got["observation"], want["observation"])
        assert torch.equal(got["mask"], want["mask"])


def test_other_keys() -> None:
    data = episodes([12, 9])
    want = seeded_sample(buffer_of(data, horizon=4))["action"]
    ids = episodes([12, 9]).rename_key_("episode", ("collector", "traj_ids"))
    named = episodes([12, 9]).rename_key_("episode", "which")
    ended = episodes([12, 9]).exclude("episode").rename_key_(("next", "done"), "last")
    both = episodes([12, 9]).set(("collector", "traj_ids"), torch.arange(21) // 12)
    both["episode"] = torch.arange(21) // 5  # the collector's own numbers come first
    wrong = episodes([12, 9])
    wrong["episode"] = torch.arange(21)  # an end_key alone is what is read
    for found, keys in (
        (ids, {}),
        (ids, {"traj_key": ("collector", "traj_ids")}),
        (named, {"traj_key": "which"}),
        (ended, {"end_key": "last"}),
        (both, {}),
        (wrong, {"end_key": ("next", "done")}),
    ):
        assert torch.equal(seeded_sample(buffer_of(found, horizon=4, **keys))["action"], want)


def test_episode_numbers_may_have_gaps_and_fall() -> None:
    data = episodes([5, 6, 7])
    data["episode"] = torch.tensor([40, -3, 12])[data["episode"]]
    buffer = buffer_of(data, 300, horizon=4)
    drawn = buffer.sample()["observation"]
    assert (drawn[..., 0] == drawn[:, :1, 0]).all()


def test_the_batch_size_asked_for_is_given() -> None:
    data = episodes([12])
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(12), sampler=WindowSampler(4))
    buffer.extend(data)
    assert buffer.sample(7).shape == (7, 6)
    assert buffer.sample(1).shape == (1, 6)


def test_episodes_shorter_than_the_horizon() -> None:
    buffer = buffer_of(episodes([3, 5, 2]), horizon=6)
    with pytest.raises(InputError, match="longest has 5 steps, horizon=6") as error:
        buffer.sample()
    assert "\n" not in str(error.value)
    assert buffer_of(episodes([3, 6, 2]), horizon=6).sample().shape == (64, 10)
    with pytest.raises(InputError, match="longest has 15 steps, horizon=6, stride=3"):
        buffer_of(episodes([15]), horizon=6, stride=3).sample()
    assert buffer_of(episodes([16]), horizon=6, stride=3).sample().shape == (64, 10)


@pytest.mark.parametrize("storage", [ListStorage, LazyStackStorage])
def test_a_storage_that_holds_no_tensors(storage: type) -> None:
    with pytest.raises(InputError, match=f"not from a {storage.__name__}; use LazyTensorStorage"):
        buffer_of(episodes([9, 9]), storage=storage, horizon=4).sample()


def test_data_is_refused_before_it_is_drawn_from() -> None:
    data = episodes([3, 5, 2])
    assert len(make_buffer(data, 5, 4, 0, torch.device("cpu"))) == 10
    with pytest.raises(InputError, match="longest has 5 steps, horizon=6"):
        make_buffer(data, 6, 4, 0, torch.device("cpu"))


def test_episodes_in_pieces() -> None:
    """Pieces of an episode that do not lie together are episodes of their own."""
    data = episodes([10, 10])
    buffer = buffer_of(torch.cat([data[:5], data[10:], data[5:10]]), 300, horizon=4)
    drawn = buffer.sample()
    follow = drawn["observation"].diff(dim=1) == torch.tensor([0, 1])
    assert (follow.all(-1) | ~(drawn["mask"][:, 1:] & drawn["mask"][:, :-1])).all()
    with pytest.raises(InputError, match="longest has 1 steps"):
        buffer_of(data[torch.arange(20).view(2, 10).T.reshape(-1)], horizon=4).sample()


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({}, r"no entry \('collector', 'traj_ids'\) or 'episode' or \('next', 'done'\)"),
        ({"traj_key": "which"}, "no entry 'which'"),
        ({"end_key": "last"}, "no entry 'last'"),
    ],
)
def test_nothing_tells_the_episodes_apart(keys: dict, named: str) -> None:
    buffer = buffer_of(episodes([10]).select("observation"), horizon=4, **keys)
    with pytest.raises(InputError, match=named + ".*traj_key or end_key"):
        buffer.sample()


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"horizon": 1}, "horizon"),
        ({"horizon": 4, "history": 0}, "history"),
        ({"horizon": 4, "stride": 0}, "stride"),
    ],
)
def test_bad_settings(kwargs: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        WindowSampler(**kwargs)
