"""Rows that are no steps, trajectories that were cut off, numbers that begin anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from tensordict import TensorDict, lazy_stack, pad_sequence
from torchrl.collectors import Collector
from torchrl.collectors.utils import split_trajectories
from torchrl.data import LazyTensorStorage, ListStorage, ReplayBuffer, TensorDictReplayBuffer
from torchrl.envs import GymWrapper, SerialEnv

from tests.data.helpers import same
from torchrl_td.data import load_episodes
from torchrl_td.data.statistics import describe
from torchrl_td.data.validation import unlikely_ends
from torchrl_td.errors import InputError

pytestmark = pytest.mark.stranger("rollouts and buffers")


class Drift(gymnasium.Env):
    """A point that drifts off, one step after another; each episode of another length."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(1, 9, 3).astype(np.float32)
        self.left = int(self.np_random.integers(3, 9))
        return self.place.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.left -= 1
        self.place = self.place + np.float32(0.1)
        return self.place.copy(), -1.0, self.left == 0, False, {}


def make() -> GymWrapper:
    return GymWrapper(Drift())


def played(count: int = 4) -> list[TensorDict]:
    """Whole rollouts of different lengths."""
    env = make()
    env.set_seed(0)
    return [env.rollout(20) for _ in range(count)]


def lengths(data: Any) -> list[int]:
    return torch.bincount(load_episodes(data)["episode"]).tolist()


def going_on() -> tuple[Any, list[int]]:
    env = SerialEnv(4, make)
    env.set_seed(0)
    rollout = env.rollout(20, break_when_any_done=False, break_when_all_done=True)
    first = rollout["next", "done"].squeeze(-1).float().argmax(-1) + 1
    return rollout, first.tolist()


def padded(**settings: Any) -> tuple[Any, list[int]]:
    rollouts = played()
    return pad_sequence(rollouts, **settings), [len(rollout) for rollout in rollouts]


def split() -> tuple[Any, list[int]]:
    """As TorchRL's D4RLExperienceReplay(split_trajs=True) gives them: the mask is ``mask``."""
    rollouts = played()
    steps = split_trajectories(torch.cat(rollouts))
    assert "mask" in steps.keys() and not steps["mask"].all()
    return steps.exclude("traj_ids"), [len(rollout) for rollout in rollouts]


def stored() -> tuple[Any, list[int]]:
    buffer = ReplayBuffer(storage=ListStorage(10), collate_fn=lazy_stack)
    buffer.extend(played())
    return buffer, [len(rollout) for rollout in played()]


ROWS: dict[str, Callable[[], tuple[Any, list[int]]]] = {
    "break_when_all_done": going_on,
    "pad_sequence": padded,
    "pad_sequence, mask of each entry": lambda: padded(return_mask=True),
    "pad_sequence, another value": lambda: padded(return_mask=True, padding_value=1.0),
    "split_trajectories": split,
    "lazy_stack": lambda: (lazy_stack(played()), [len(rollout) for rollout in played()]),
    "a buffer of rollouts": stored,
}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_that_are_no_steps_are_left_out(kind: str, warned: list[str]) -> None:
    data, want = ROWS[kind]()
    assert len(set(want)) > 1
    assert lengths(data) == want
    assert len(warned) == (kind == "break_when_all_done")


def test_episodes_of_one_step_from_one_state_are_steps_each(warned: list[str]) -> None:
    """Choices in one of two situations, paid at once: only all of a step's entries tell them."""
    state = torch.eye(2)[torch.arange(40) // 5 % 2]
    choice = torch.arange(40).remainder(4).float().unsqueeze(-1)
    end = torch.ones(40, 1, dtype=torch.bool)
    paid = {"observation": state, "reward": choice * state[:, :1] + 1, "terminated": end}
    data = TensorDict(observation=state, action=choice / 4, next=paid, batch_size=[40])
    assert lengths(data) == [1] * 40 and not any("repeat" in says for says in warned)


def test_padding_of_an_unfinished_rollout_is_no_step(warned: list[str]) -> None:
    rollouts = played()
    assert same(
        load_episodes(pad_sequence([*rollouts, rollouts[0][:2]])),
        load_episodes(torch.cat(rollouts)),
    )
    count = sum(map(len, rollouts)) + 2
    assert f"1 of 5 trajectories (2 of {count} steps) end neither" in warned[0]


def test_what_was_cut_off_is_neither_best_nor_a_target(warned: list[str]) -> None:
    """Each step costs 1, so that two steps of an episode cost less than any whole one."""
    rollouts = played(8)
    data = load_episodes(torch.cat([*rollouts, make().rollout(2)]))
    best = -float(min(len(rollout) for rollout in rollouts))
    numbers = describe(data)
    assert numbers["return"]["max"] == best >= numbers["suggested_target_return"]
    assert numbers["episodes"] == 8 and same(data, load_episodes(torch.cat(rollouts)))
    assert warned[0].startswith("tensordict: 1 of 9 trajectories (2 of ")


def test_nothing_but_what_was_cut_off_is_refused() -> None:
    with pytest.raises(InputError, match=r"1 of 1 trajectories .* mark the last step of those"):
        load_episodes(make().rollout(2))


def test_numbers_that_begin_anew_are_told_apart(warned: list[str]) -> None:
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1000))
    want = []
    for seed in range(3):
        collector = Collector(make, None, frames_per_batch=60, total_frames=60)
        collector.set_seed(seed)
        for batch in collector:
            buffer.extend(batch)
            ends = batch["next", "done"].flatten().nonzero().flatten() + 1
            want += torch.diff(ends, prepend=torch.zeros(1, dtype=ends.dtype)).tolist()
        collector.shutdown()
    data = load_episodes(buffer)
    assert sorted(torch.bincount(data["episode"]).tolist()) == sorted(want)
    assert torch.equal(data["returns_to_go"][:, 0], -reversed_steps(data["episode"]))
    assert "end neither terminated nor truncated" in warned[0]


def reversed_steps(number: torch.Tensor) -> torch.Tensor:
    """How many steps are left of each step's episode, itself included."""
    counts = torch.bincount(number)
    return torch.cat([torch.arange(int(n), 0, -1) for n in counts]).float()


def test_numbers_that_mix_trajectories_are_refused() -> None:
    rollouts = played()
    steps = torch.stack([rollout[:3] for rollout in rollouts], 1).reshape(-1)
    steps["episode"] = torch.zeros(len(steps), dtype=torch.int64)
    with pytest.raises(InputError, match="numbers of its trajectories mix several; number each"):
        load_episodes(steps)


def test_a_reset_begins_a_trajectory(warned: list[str]) -> None:
    steps = torch.cat(played(2))
    standing = torch.ones(len(steps), 3)  # states alike do not tell
    steps["observation"] = steps["next", "observation"] = standing
    steps["is_init"] = torch.zeros(len(steps), 1, dtype=torch.bool)
    steps["is_init"][len(played(1)[0]) - 2] = True
    whole = lengths(steps)
    assert whole == [2, len(played(2)[1])]
    assert "1 of 3 trajectories" in warned[0]


def test_a_graph_is_not_kept() -> None:
    steps = torch.cat(played())
    steps["action"] = steps["action"] * torch.ones(2, requires_grad=True)
    data = load_episodes(steps)
    assert not any(value.requires_grad for value in data.values(True, True))


FLAGS: dict[str, tuple[Any, Any, str]] = {
    "NaN": (("next", "done"), torch.nan, "next/done must be one 0 or 1 a step"),
    "half": (("next", "terminated"), 0.5, "next/terminated must be one 0 or 1 a step"),
    "several": (("next", "done"), [0.0, 0.0, 1.0], "next/done must be one 0 or 1 a step"),
    "NaN number": ("episode", torch.nan, "episode must be a whole number a step"),
    "several numbers": ("episode", [1.0, 2.0], "episode has the shape .* one number a step"),
}


@pytest.mark.parametrize("case", FLAGS)
def test_flags_and_numbers_that_are_none(case: str) -> None:
    key, value, message = FLAGS[case]
    steps = torch.cat(played())
    steps[key] = torch.tensor(value).expand(len(steps), -1 if isinstance(value, list) else 1)
    with pytest.raises(InputError, match=message) as caught:
        load_episodes(steps)
    assert "\n" not in str(caught.value)


def test_a_jump_within_an_episode_and_single_steps_are_told(warned: list[str]) -> None:
    walk = torch.cat([torch.randn(100, 3).cumsum(0) * 0.05 + 20 * k for k in range(5)])
    steps = TensorDict(
        observation=walk,
        action=torch.rand(500, 2),
        next=TensorDict(
            observation=torch.cat([walk[1:], walk[-1:]]),
            reward=torch.ones(500, 1),
            truncated=torch.zeros(500, 1).bool(),
            batch_size=[500],
        ),
        batch_size=[500],
    )
    steps["next", "truncated"][[110, 210, 310, 410, 499]] = True  # true ends: 99, 199, 299, 399
    load_episodes(steps)
    assert "4 of 500 steps within episodes go over 30 times as far as the usual one" in warned[0]
    bounces = load_episodes(torch.cat(played(50)))
    bounces["next", "observation"][7] += 100  # once in 50 episodes
    assert unlikely_ends(bounces) == []
    warned.clear()
    steps["next", "truncated"][:] = True
    load_episodes(steps)
    assert "500 of 500 episodes have a single step" in warned[0]
