"""Data from Python: TED tensordicts as collectors make them, and replay buffers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.collectors.utils import split_trajectories
from torchrl.data import (
    LazyStackStorage,
    LazyTensorStorage,
    ListStorage,
    ReplayBuffer,
    TensorDictMaxValueWriter,
    TensorDictReplayBuffer,
)
from torchrl.envs import CatTensors, Compose, DoubleToFloat, GymWrapper, SerialEnv, TransformedEnv

from tests.data.helpers import same
from torchrl_td.data import load_episodes, load_with_identity
from torchrl_td.data.mazes.pointmaze import make_pointmaze
from torchrl_td.data.sources import tensordict as tensordict_source
from torchrl_td.errors import InputError


def ted(lengths: tuple[int, ...] = (4, 1, 3), **replace: Any) -> TensorDict:
    """Steps [N] whose observations and actions count them."""
    count = sum(lengths)
    done = torch.zeros(count, 1, dtype=torch.bool)
    done[torch.tensor(lengths).cumsum(0) - 1] = True
    at = torch.arange(1.0, count + 1).unsqueeze(-1)
    root: dict[str, Any] = {"observation": at.expand(count, 3), "action": at / 100}
    following = {"observation": at + torch.ones(3), "reward": torch.ones(count, 1)}
    following |= {"done": done, "terminated": done.clone(), "truncated": torch.zeros_like(done)}
    for key, value in replace.items():
        where, name = (following, key[5:]) if key.startswith("next_") else (root, key)
        where[name] = value
        if value is None:
            del where[name]
    return TensorDict({**root, "next": following}, batch_size=[count])


def maze(steps: int = 8) -> TransformedEnv:
    """PointMaze as the project's environments have it: joined, its parts left in place."""
    env = GymWrapper(make_pointmaze("umaze", max_episode_steps=steps))
    join = CatTensors(["observation", "desired_goal"], "observation", del_keys=False, sort=False)
    return TransformedEnv(env, Compose(join, DoubleToFloat()))


def collected(env: Any, frames: int = 40, batches: int = 1) -> list[TensorDict]:
    collector = Collector(env, None, frames_per_batch=frames, total_frames=frames * batches)
    try:
        return [batch.clone() for batch in collector]
    finally:
        collector.shutdown()


def check_chains(data: TensorDict, length: int) -> None:
    """Within an episode each step begins where the one before ended."""
    inner = ~data["next", "done"][:-1, 0]
    assert torch.equal(data["next", "observation"][:-1][inner], data["observation"][1:][inner])
    assert torch.bincount(data["episode"]).max() <= length
    assert torch.all(data["episode"].diff() == data["next", "done"][:-1, 0])


def test_what_is_loaded_loads_again() -> None:
    once = load_episodes(ted())
    assert torch.bincount(once["episode"]).tolist() == [4, 1, 3]
    assert same(load_episodes(once), once)


def test_a_joined_goal_is_not_joined_twice() -> None:
    (batch,) = collected(maze())
    assert batch["observation"].shape[-1] == 6 and "desired_goal" in batch.keys()
    data = load_episodes(batch)
    assert data["observation"].shape == (40, 6)
    assert torch.equal(data["observation"], batch["observation"])
    assert torch.bincount(data["episode"]).tolist() == [8] * 5
    check_chains(data, 8)


def test_a_goal_beside_the_observation_is_joined() -> None:
    (batch,) = collected(GymWrapper(make_pointmaze("umaze", max_episode_steps=8)))
    assert batch["observation"].shape[-1] == 4
    data = load_episodes(batch)
    want = torch.cat([batch["observation"], batch["desired_goal"]], -1).float()
    assert torch.equal(data["observation"], want)
    check_chains(data, 8)
    chosen = load_episodes(batch, observation_keys=["achieved_goal", "observation"])
    want = torch.cat([batch["achieved_goal"], batch["observation"]], -1).float()
    assert torch.equal(chosen["observation"], want)


def test_an_observation_that_happens_to_equal_the_goal_in_size_is_joined() -> None:
    observation = torch.rand(8, 3)
    data = ted(observation=observation, desired_goal=torch.rand(8, 3))
    data["next", "desired_goal"] = data["desired_goal"]
    assert load_episodes(data)["observation"].shape == (8, 6)


def interleaved() -> tuple[TensorDict, list[TensorDict]]:
    """Batches of two environments, flattened as a replay buffer takes them."""
    batches = collected(SerialEnv(2, maze), frames=20, batches=4)
    return torch.cat([batch.reshape(-1) for batch in batches]), batches


def test_interleaved_trajectories_are_put_together() -> None:
    flat, batches = interleaved()
    data = load_episodes(flat)
    # Batches of 10 steps cut the episodes of 8, whose pieces lie 10 rows apart.
    assert torch.bincount(data["episode"]).tolist() == [8] * 10
    check_chains(data, 8)
    whole = torch.cat(batches, 1)  # [2, 40]
    want = load_episodes(whole.exclude("collector"))
    rows = sorted(data["observation"].tolist())
    assert rows == sorted(want["observation"].tolist())
    by_row = load_episodes(whole)  # the numbers join what the rows' ends would cut
    assert rows == sorted(by_row["observation"].tolist())
    assert torch.bincount(by_row["episode"]).tolist() == [8] * 10
    check_chains(by_row, 8)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_any_interleaving_is_undone(lengths: list[int], random: Any) -> None:
    ordered = ted(tuple(lengths))
    number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    ordered["episode"] = number
    waiting = [torch.nonzero(number == i).flatten().tolist() for i in range(len(lengths))]
    rows = []
    while any(waiting):
        rows.append(random.choice([queue for queue in waiting if queue]).pop(0))
    mixed = ordered[torch.tensor(rows)]
    began = list(dict.fromkeys(mixed["episode"].tolist()))
    want = torch.cat([ordered[number == i] for i in began])
    assert same(load_episodes(mixed), load_episodes(want))


def test_rows_without_numbers_end_where_they_end() -> None:
    data = load_episodes(torch.stack([ted((3, 2)), ted((4, 1)), ted((5,))]))
    assert torch.bincount(data["episode"]).tolist() == [3, 2, 4, 1, 5]


def test_split_and_padded_trajectories() -> None:
    flat, _ = interleaved()
    flat = flat[:70]
    flat = flat[torch.argsort(flat["collector", "traj_ids"], stable=True)]
    ordered = load_episodes(flat)
    padded = split_trajectories(flat)
    assert not padded["collector", "mask"].all()  # some were cut short
    assert padded.batch_dims == 2 and ("collector", "mask") in padded.keys(True)
    assert same(load_episodes(padded), ordered)
    assert same(load_episodes(padded.exclude(("collector", "traj_ids"))), ordered)


@pytest.mark.parametrize(
    ("flags", "terminated", "truncated"),
    [
        ({"done"}, True, False),  # as TorchRL reads it
        ({"terminated"}, True, False),
        ({"truncated"}, False, True),
        ({"done", "truncated"}, False, True),
        ({"done", "terminated"}, True, False),
    ],
)
def test_ends_from_whichever_flags_there_are(
    flags: set[str], terminated: bool, truncated: bool
) -> None:
    data = ted()
    done = data["next", "done"].clone()
    data["next"] = data["next"].select("observation", "reward")
    for key in flags:
        data["next", key] = done
    loaded = load_episodes(data)
    assert torch.equal(loaded["next", "done"], done)
    assert torch.equal(loaded["next", "terminated"], done & terminated)
    assert torch.equal(loaded["next", "truncated"], done & truncated)


def test_flags_are_not_needed_where_trajectories_are_numbered() -> None:
    data = ted(episode=torch.tensor([7, 7, 7, 7, 2, 5, 5, 5]))
    data["next"] = data["next"].select("observation", "reward")
    loaded = load_episodes(data)
    assert loaded["episode"].tolist() == [0, 0, 0, 0, 1, 2, 2, 2]
    assert loaded["next", "truncated"].sum() == 3


@settings(max_examples=25)
@given(size=st.integers(3, 30), written=st.integers(1, 50), batch=st.integers(1, 3))
def test_a_full_ring_begins_with_its_oldest_step(size: int, written: int, batch: int) -> None:
    steps = ted((written,))
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(size))
    for part in steps.split(batch):
        buffer.extend(part)
    data = load_episodes(buffer)
    # Numbered by the steps themselves: what is there is the latest, in order.
    want = torch.arange(1.0, written + 1)[-size:]
    assert torch.equal(data["observation"][:, 0], want)


@pytest.mark.parametrize(("size", "told"), [(8, True), (6, False), (20, False)])
def test_an_episode_whose_beginning_was_overwritten_is_told(
    size: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(tensordict_source, "warn_once", said.append)
    steps = ted((3, 3, 3, 1))
    steps["is_init"] = (torch.arange(10) % 3 == 0).unsqueeze(-1)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(size))
    buffer.extend(steps[:9] if size == 6 else steps)
    load_episodes(buffer)
    assert ["beginning of its oldest episode" in line for line in said] == ([True] if told else [])


def test_a_ring_of_environments() -> None:
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(20, ndim=2))
    at = torch.arange(15.0).expand(2, 15) + 100 * torch.arange(2.0).unsqueeze(-1)
    for start in range(0, 15, 5):  # 10 a row fit
        part = torch.stack([ted((5,))] * 2)
        part["observation"] = at[:, start : start + 5, None]
        part["next", "observation"] = part["observation"] + 1
        part["next", "done"][:] = part["next", "terminated"][:] = start == 10
        part["next", "done"][:, :4] = part["next", "terminated"][:, :4] = False
        buffer.extend(part)
    data = load_episodes(buffer)
    assert data["observation"][:, 0].tolist() == at[:, 5:].flatten().tolist()
    assert torch.bincount(data["episode"]).tolist() == [10, 10]


def test_a_collector_into_a_buffer_into_training_data() -> None:
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(60))
    for batch in collected(SerialEnv(2, maze), frames=20, batches=4):
        buffer.extend(batch.reshape(-1))
    data = load_episodes(buffer)
    assert data.shape == (60,) and data["observation"].shape == (60, 6)
    check_chains(data, 8)


@pytest.mark.parametrize("storage", [LazyTensorStorage, LazyStackStorage, ListStorage])
def test_any_storage_of_steps(storage: type) -> None:
    """Also one that keeps its entries apart: the episodes and their identity are the same."""
    buffer = TensorDictReplayBuffer(storage=storage(8))
    for step in ted((2, 2)):  # the ring turns: these are written over
        buffer.add(step)
    for step in ted():
        buffer.add(step)
    assert same(load_episodes(buffer), load_episodes(ted()))
    kept = TensorDictReplayBuffer(storage=LazyTensorStorage(8))
    kept.extend(ted())
    identities = [load_with_identity(source)[1] for source in (buffer, kept)]
    assert identities[0] == identities[1] and identities[0]["episodes"] == 3


def bad_buffer(kind: str) -> ReplayBuffer:
    if kind == "empty":
        return TensorDictReplayBuffer(storage=LazyTensorStorage(10))
    if kind == "no tensordict":
        buffer = ReplayBuffer(storage=ListStorage(10), collate_fn=lambda x: x)
        buffer.extend([1, 2, 3])
        return buffer
    if kind == "numbers":
        buffer = ReplayBuffer(storage=ListStorage(10))
        buffer.extend([1, 2, 3])
        return buffer
    if kind == "dicts":
        buffer = ReplayBuffer(storage=LazyStackStorage(10))
        buffer.extend([{"observation": torch.rand(3)}] * 2)
        return buffer
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(10), writer=TensorDictMaxValueWriter(rank_key="score")
    )
    buffer.extend(ted(score=torch.rand(8)))
    return buffer


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "replay buffer: it is empty"),
        ("no tensordict", "it holds list, not a TensorDict"),
        ("numbers", "its entries do not make one TensorDict"),
        ("dicts", "its entries do not make one TensorDict"),
        ("sorted", "keeps the best steps and not their order"),
    ],
)
def test_buffers_that_hold_no_episodes(kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_episodes(bad_buffer(kind))
    assert "\n" not in str(caught.value)


nan = torch.rand(8, 3)
nan[6, 1] = torch.nan
BROKEN: dict[str, tuple[TensorDict, str]] = {
    "no observation": (ted(observation=None), "key 'observation' is missing; name the obs"),
    "no action": (ted(action=None), "key 'action' is missing; steps need TED keys"),
    "no reward": (ted(next_reward=None), "key 'next/reward' is missing"),
    "no ends": (
        ted(next_done=None, next_terminated=None, next_truncated=None),
        "key 'next/done' is missing, as are",
    ),
    "no steps": (ted()[:0], "it holds no steps"),
    "no batch size": (ted()[0], "it holds no steps"),
    "NaN": (ted(observation=nan), r"observation holds NaN or Inf, first in row 6 \(episode 2\)"),
    "integer actions": (ted(action=torch.ones(8, 2).long()), "action has dtype torch.int64"),
    "choices below 0": (ted(action=-torch.ones(8, 1).long()), "action holds whole numbers from -1"),
    "dict action": (
        ted(action=TensorDict({"a": torch.rand(8, 1)}, [8])),
        "'action' is a Dict; one vector",
    ),
    "complex": (ted(observation=torch.ones(8, 3).cfloat()), "observation has dtype torch.complex"),
    "several rewards": (ted(next_reward=torch.rand(8, 2)), "next/reward has several numbers"),
    "widths": (ted(observation=torch.rand(8, 4)), "observation 4 and next/observation 3 numbers"),
    "zeros": (ted(observation=torch.zeros(8, 3)), "observation is all zero"),
    "all masked": (
        ted(collector=TensorDict({"mask": torch.zeros(8).bool()}, [8])),
        "all its steps are masked out",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_tensordicts_are_refused_in_one_line(case: str) -> None:
    data, message = BROKEN[case]
    with pytest.raises(InputError, match=message) as caught:
        load_episodes(data)
    assert str(caught.value).startswith("tensordict: ") and "\n" not in str(caught.value)


def test_keys_that_are_not_there() -> None:
    with pytest.raises(
        InputError, match="observation has no entry 'velocity'; choose observation_k"
    ):
        load_episodes(ted(), observation_keys=["velocity"])
    with pytest.raises(InputError, match="unknown data source of type int"):
        load_episodes(3)  # type: ignore[arg-type]


def test_a_nested_key_is_a_tuple_or_has_a_slash() -> None:
    steps = TensorDict(
        observation=TensorDict(arm=TensorDict(angle=torch.rand(4, 2), speed=torch.rand(4, 1))),
        action=torch.rand(4, 1),
        next=TensorDict(reward=torch.ones(4, 1), done=torch.arange(4).unsqueeze(-1) == 3),
    ).auto_batch_size_(1)
    slash, named = (
        load_episodes(steps, observation_keys=[key])["observation"]
        for key in ("arm/speed", ("arm", "speed"))
    )
    assert torch.equal(slash, named) and slash.shape == (4, 1)


def test_other_float_types_and_flags_without_a_last_dimension() -> None:
    data = ted(observation=torch.rand(8, 3).double(), next_reward=torch.ones(8).half())
    for key in ("done", "terminated", "truncated"):
        data["next", key] = data["next", key].squeeze(-1)
    loaded = load_episodes(data)
    assert loaded["observation"].dtype == torch.float32
    assert loaded["next", "reward"].shape == loaded["next", "done"].shape == (8, 1)
    assert torch.bincount(loaded["episode"]).tolist() == [4, 1, 3]
