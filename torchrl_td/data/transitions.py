"""Steps as every source hands them over, and what is done with them once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from torchrl_td.data.conversion import as_float
from torchrl_td.data.validation import LARGEST, NotFiniteError, check_finite
from torchrl_td.errors import InputError

CHUNK_STEPS = 1 << 16
"""How many steps a source reads at once, more or less: whole episodes."""


class Steps(NamedTuple):
    """n steps in order, whole trajectories."""

    observation: Any  # [n, O], array or tensor, as are the others
    action: Any  # [n, A]
    next_observation: Any  # [n, O]
    reward: Any  # [n] or [n, 1]
    terminated: Tensor  # [n] bool
    truncated: Tensor  # [n] bool
    ends: Tensor  # [n] bool, a trajectory's last step, be it terminated, truncated or neither


@dataclass
class Counts:
    """What has been read of a source so far."""

    rows: int = 0
    trajectories: int = 0
    unfinished: int = 0
    """Trajectories that end neither terminated nor truncated."""
    unfinished_rows: int = 0

    def warning(self, name: str) -> str | None:
        """What to say of the trajectories that were left out, if any were.

        Args:
            name: of the source.

        Raises:
            InputError: they are all there is.
        """
        if not self.unfinished:
            return None
        what = (
            f"{name}: {self.unfinished} of {self.trajectories} trajectories "
            f"({self.unfinished_rows:,} of {self.rows:,} steps) end neither terminated nor "
            "truncated, or break off, so their returns are not known"
        )
        remedy = "mark the last step of those that are whole as truncated"
        if self.unfinished == self.trajectories:
            raise InputError(f"{what}; {remedy}, or record whole ones")
        return f"{what}: they are left out; {remedy}"


@dataclass(frozen=True)
class Source:
    """Where steps come from."""

    name: str
    """As the user wrote it, for messages."""
    path: Path
    """The file or folder it was resolved to."""
    files: Sequence[Path]
    """What the data is read from."""
    chunks: Callable[[], Iterator[Steps]]
    """Reads it: whole episodes, a bounded number of steps at once."""
    steps: int
    """How many steps there are, for the progress bar."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """What the file calls ``observation``, ``action``, ``next/observation``, ``next/reward``."""
    variant: Mapping[str, Any] = field(default_factory=dict)
    """Settings that change what is read, such as the observation keys."""


def returns_to_go(reward: Tensor, done: Tensor) -> Tensor:
    """Undiscounted sum of the rewards from each step to its episode's end.

    Args:
        reward: [N].
        done: [N] bool, True at the last step of each episode; the last step ends one.

    Returns:
        [N] float64, this step's reward included.

    >>> returns_to_go(torch.tensor([1., 2., 4.]), torch.tensor([False, True, True]))
    tensor([3., 2., 4.], dtype=torch.float64)
    """
    total = torch.cumsum(reward.double(), 0)  # [N]
    ends = torch.nonzero(done).squeeze(-1)  # [episodes]
    lengths = torch.diff(ends, prepend=ends.new_tensor([-1]))
    end_total = torch.repeat_interleave(total[ends], lengths)  # [N]
    return end_total - total + reward.double()


def successor_known(episodes: TensorDictBase) -> Tensor:
    """Where the next observation is what followed, and not the state once more.

    D4RL files without ``next_observations`` do not hold what followed an episode's last step;
    :func:`torchrl_td.data.load_episodes` repeats its state there. That pair of states would
    teach the inverse dynamics that the last action changes nothing, and the generator that
    the world stands still, so neither learns from it. The step's state, action, reward and
    returns-to-go are data like any other's.

    Args:
        episodes: in the layout of :func:`torchrl_td.data.load_episodes`.

    Returns:
        [N, 1] bool, False at an episode's last step whose next observation is its own.
    """
    repeated = (episodes["next", "observation"] == episodes["observation"]).all(-1, keepdim=True)
    return ~(repeated & episodes["next", "done"])


def finish(
    steps: Steps,
    name: str,
    counts: Counts,
    *,
    keys: Mapping[str, str] | None = None,
    finite: bool = True,
) -> TensorDict:
    """Check steps and bring them into the layout of :func:`torchrl_td.data.load_episodes`.

    A trajectory that ends neither terminated nor truncated, as where a collector stopped in
    mid-episode, is left out: its returns-to-go are not known.

    Args:
        steps: whole trajectories.
        name: of the source, for messages.
        counts: of what came before in the source; these steps are added.
        keys: what the source calls our keys, for messages.
        finite: False lets NaN and Inf pass.

    Returns:
        Float32 values; those that were float32 already share the source's memory where all
        trajectories are finished.

    Raises:
        InputError: lengths differ, or a value is no number.
        NotFiniteError: a value is NaN or Inf, or a return too large for float32.
    """
    keys = dict(keys or {})
    count, done = len(steps.terminated), steps.terminated | steps.truncated
    within = torch.cumsum(steps.ends, 0) - steps.ends.long()  # [n] the trajectory, from 0
    number = counts.trajectories + within
    columns = _columns(steps, name, keys)
    if finite:
        for key, column in columns.items():
            largest = None if key == "next/reward" else LARGEST
            check_finite(column, name, keys.get(key, key), counts.rows, number, largest)
    to_go = returns_to_go(columns["next/reward"][:, 0], steps.ends)  # [n] float64: sums stay exact
    finished = done[steps.ends]  # [trajectories]
    if finite:
        known = to_go.where(finished[within], 0.0)
        _check_returns(known, number, name, keys.get("next/reward", "next/reward"))
    left_out = torch.cumsum(~finished, 0)  # [trajectories]
    episode = number - counts.unfinished - left_out[within]
    episodes = TensorDict(
        {
            "observation": columns["observation"],
            "action": columns["action"],
            "episode": episode,
            "returns_to_go": to_go.float().unsqueeze(-1),
            "next": {
                "observation": columns["next/observation"],
                "reward": columns["next/reward"],
                "returns_to_go": (to_go - columns["next/reward"][:, 0].double()).float()[:, None],
                "done": done.unsqueeze(-1),
                "terminated": steps.terminated.unsqueeze(-1),
                "truncated": steps.truncated.unsqueeze(-1),
            },
        },
        batch_size=[count],
    )
    if not finished.all():
        episodes = episodes[finished[within]]
    counts.rows += count
    counts.trajectories += len(finished)
    counts.unfinished += int((~finished).sum())
    counts.unfinished_rows += count - len(episodes)
    return episodes


def _check_returns(to_go: Tensor, number: Tensor, name: str, called: str) -> None:
    """Refuse returns-to-go [n] float64 that float32 cannot hold, of rewards that it can."""
    rows = torch.nonzero(to_go.abs() > torch.finfo(torch.float32).max)
    if len(rows):
        raise NotFiniteError(
            f"{name}: {called} add up to {float(to_go[rows[0]]):.3g} in episode "
            f"{int(number[rows[0]])}, more than float32 holds; divide the rewards by a constant"
        )


def _columns(steps: Steps, name: str, keys: Mapping[str, str]) -> dict[str, Tensor]:
    """The entries that are numbers as float32 [n, D], by key; what does not fit is refused."""
    count = len(steps.terminated)
    columns = {}
    for key, value in (
        ("observation", steps.observation),
        ("action", steps.action),
        ("next/observation", steps.next_observation),
        ("next/reward", steps.reward),
    ):
        called = keys.get(key, key)
        if len(value) != count:
            raise InputError(
                f"{name}: {called} has {len(value)} rows where the episodes have {count} steps; "
                "every entry needs one row a step"
            )
        column = as_float(value, name, called, continuous=key == "action")
        columns[key] = column.reshape(count, -1 if count else math.prod(column.shape[1:]))
        if columns[key].shape[-1] == 0:
            raise InputError(f"{name}: {called} holds no number a step; record or convert it again")
    if columns["next/reward"].shape[-1] != 1:
        called = keys.get("next/reward", "next/reward")
        raise InputError(f"{name}: {called} has several numbers a step; keep one reward of them")
    both = {keys.get(k, k): columns[k].shape[-1] for k in ("observation", "next/observation")}
    if columns["observation"].shape != columns["next/observation"].shape:
        sizes = " and ".join(f"{called} {size}" for called, size in both.items())
        raise InputError(f"{name}: {sizes} numbers a step differ; they need the same entries")
    return columns
