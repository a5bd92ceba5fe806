"""Steps from any source to transitions in TED layout: types, checks, returns-to-go."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from torchrl_td.data.images import check_no_image
from torchrl_td.data.keys import Key
from torchrl_td.data.keys import observation_keys as ordered_keys
from torchrl_td.data.source import Counts, Steps
from torchrl_td.data.validation import (
    LARGEST,
    NotFiniteError,
    check_finite,
    check_precision,
)
from torchrl_td.errors import InputError


def returns_to_go(reward: Tensor, done: Tensor) -> Tensor:
    """Undiscounted sum of the rewards from each step to its episode's end.

    Args:
        reward: [N].
        done: [N] bool, True at the last step of each episode; the last step ends one whatever
            it says.

    Returns:
        [N] float64, this step's reward included.

    >>> returns_to_go(torch.tensor([1., 2., 4.]), torch.tensor([False, True, True]))
    tensor([3., 2., 4.], dtype=torch.float64)
    """
    total = torch.cumsum(reward.double(), 0)  # [N]
    done = done.clone()
    done[-1:] = True
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
            if column.dtype == torch.bool:
                continue
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
        if key == "action" and getattr(value, "dtype", None) == torch.bool:
            columns[key] = value.reshape(count, -1)  # choices
            continue
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


def as_float(value: Any, name: str, key: str, *, continuous: bool = False) -> Tensor:
    """Numbers as float32; a warning says where that loses what they tell.

    Args:
        value: array or tensor.
        name: of the source, for messages.
        key: of the value, for messages.
        continuous: whether integers are refused as well, as of a discrete action.

    Raises:
        InputError: the values are no real numbers, or integers where ``continuous``.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind not in "fiub":
        raise InputError(
            f"{name}: {key} has dtype {value.dtype}, not numbers; convert it to float32"
        )
    value = torch.as_tensor(native(value) if isinstance(value, np.ndarray) else value)
    if value.is_complex() or (continuous and not value.dtype.is_floating_point):
        kind = "continuous actions are" if continuous else "real numbers are"
        raise InputError(
            f"{name}: {key} has dtype {value.dtype}, but only {kind} planned with; "
            "convert it to float32 or take another dataset"
        )
    check_precision(value, name, key)
    return value.float()


def as_flags(value: Any, name: str, key: str) -> Tensor:
    """A yes or no a step as bool [n].

    Raises:
        InputError: there are several a step, or others than 0 and 1.
    """
    flags = torch.as_tensor(native(value) if isinstance(value, np.ndarray) else value)
    if flags.numel() != len(flags) or not ((flags == 0) | (flags == 1)).all():
        raise InputError(f"{name}: {key} must be one 0 or 1 a step, and is not; mend it")
    return flags.reshape(-1).bool()


def native(value: np.ndarray) -> np.ndarray:
    """Numbers of a type that PyTorch has: of this machine's byte order, signed, of 64 bits."""
    kind, size = value.dtype.kind, value.dtype.itemsize
    if kind == "u" and size > 1:
        return value.astype(np.int64 if size < 8 else np.float64)
    if kind == "f" and size > 8:
        return value.astype(np.float64)
    return value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))


def join(
    entries: Mapping[Key, Any], keys: Sequence[str | Key] | None, name: str, called: str
) -> Any:
    """Join the entries of an observation to one vector a step.

    Args:
        entries: arrays or tensors [n, ...] by path; what is no Dict is ``observation``.
        keys: which, in order; None for the documented order.
        name: of the source, for messages.
        called: what the source calls the observation, for messages.

    Returns:
        [n, O]; float32 where several entries were joined.

    Raises:
        InputError: an entry is missing or holds no numbers.
    """
    chosen = ordered_keys(list(entries)) if keys is None else list(keys)
    parts = []
    for key in chosen:
        path = key if isinstance(key, tuple) else (key,)
        if path not in entries and "/" in path[0]:
            path = tuple(path[0].split("/"))
        check_no_image(getattr(entries.get(path), "shape", ())[1:], f"{name}: {called}")
        if path not in entries:
            have = ", ".join("/".join(p) for p in sorted(entries))
            raise InputError(
                f"{name}: {called} has no entry {'/'.join(path)!r}; choose observation_keys "
                f"among {have}"
            )
        parts.append(entries[path])
    if len(parts) == 1:
        return parts[0]
    named = [f"{called}/{'/'.join(k) if isinstance(k, tuple) else k}" for k in chosen]
    flat = [
        as_float(value, name, key).reshape(len(value), -1)
        for key, value in zip(named, parts, strict=True)
    ]
    if len({len(value) for value in flat}) > 1:
        sizes = ", ".join(f"{k} {len(v)}" for k, v in zip(named, flat, strict=True))
        raise InputError(f"{name}: rows differ between {sizes}; every entry needs one row a step")
    return torch.cat(flat, -1)


def flat_entries(value: Any, path: Key = ()) -> dict[Key, Any]:
    """The leaves of nested mappings (or TensorDicts) by path; a leaf alone is ``observation``."""
    if isinstance(value, Mapping) or hasattr(value, "batch_size"):
        found: dict[Key, Any] = {}
        for key, entry in value.items():
            found.update(flat_entries(entry, (*path, key)))
        return found
    return {path or ("observation",): value}
