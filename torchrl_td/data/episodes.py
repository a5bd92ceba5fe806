"""Episodes from any source as one checked TensorDict in TorchRL's (TED) layout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import ReplayBuffer

from torchrl_td.data.checks import check_episodes, check_leaves
from torchrl_td.data.keys import Key
from torchrl_td.data.keys import observation_keys as ordered_keys
from torchrl_td.data.minari import load_minari
from torchrl_td.errors import TDError

NEXT = "next"


def load_episodes(
    source: str | TensorDictBase | ReplayBuffer,
    *,
    observation_keys: Sequence[str | Key] | None = None,
    device: torch.device | str | None = None,
) -> TensorDict:
    """Load offline episodes as one flat TensorDict, checked.

    Args:
        source: ``"minari:<id>"`` (a local Minari dataset, or a remote one that is
            downloaded; ``pointmaze/umaze-v0``, ``medium``, ``large`` are recorded on
            first use), a TensorDict in TED layout, or a TorchRL replay buffer of one.
        observation_keys: entries of a Dict observation to join, in this order. By
            default the order of :func:`torchrl_td.data.keys.observation_keys`.
        device: where the result lives; by default the CPU.

    Returns:
        TensorDict of batch size [N], steps in order, episodes one after the other:
        ``observation`` [N, O], ``action`` [N, A], ``("next", "observation")`` [N, O],
        ``("next", "reward")`` [N, 1], ``returns_to_go`` and ``("next",
        "returns_to_go")`` [N, 1] (undiscounted, raw), all float32; ``("next",
        "done")``, ``("next", "terminated")``, ``("next", "truncated")`` [N, 1] bool;
        ``episode`` [N] int64, counted from 0.

    Raises:
        TDError: the source is unknown or its data cannot be used; one line that names
            the dataset, the key and the remedy.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> data = TensorDict({
    ...     "observation": torch.rand(4, 3), "action": torch.rand(4, 2),
    ...     "next": {
    ...         "observation": torch.rand(4, 3), "reward": torch.ones(4, 1),
    ...         "terminated": torch.tensor([[False], [True], [False], [False]]),
    ...         "truncated": torch.tensor([[False], [False], [False], [True]]),
    ...     },
    ... }, batch_size=[4])
    >>> load_episodes(data)["returns_to_go"].squeeze(-1)
    tensor([2., 1., 2., 1.])
    """
    if isinstance(source, ReplayBuffer):
        raw, name = _from_buffer(source), "replay buffer"
    elif isinstance(source, TensorDictBase):
        raw, name = source, "tensordict"
    elif isinstance(source, str) and source.startswith("minari:"):
        raw, name = load_minari(source.removeprefix("minari:")), source
    else:
        raise TDError(
            f"unknown data source {source!r}: use 'minari:<id>', a TensorDict or a replay buffer"
        )
    episodes = to_episodes(raw, name, observation_keys)
    return episodes if device is None else episodes.to(device)


def to_episodes(
    raw: TensorDictBase, name: str, keys: Sequence[str | Key] | None = None
) -> TensorDict:
    """Bring a TED tensordict into the project's layout and check it.

    Args:
        raw: steps in order, of batch size [N], or [B, T] with a whole piece of
            trajectory a row.
        name: of the source, for messages.
        keys: entries of a Dict observation to join; None for the documented order.

    Raises:
        TDError: a key is missing, or the data cannot be used.
    """
    row_end = None
    if raw.batch_dims > 1:
        row_end = torch.zeros(raw.batch_size, dtype=torch.bool)
        row_end[..., -1] = True  # a row's last step is followed by another row's first
        row_end = row_end.reshape(-1)
        raw = raw.reshape(-1)
    check_leaves(raw, name)
    count = raw.batch_size[0]
    out = TensorDict({}, batch_size=[count])
    nxt = TensorDict({}, batch_size=[count])
    out["observation"] = _observation(raw, name, keys)
    out["action"] = _column(raw["action"], count).float()
    nxt["observation"] = _observation(raw[NEXT], f"{name}, next", keys)
    nxt["reward"] = raw[NEXT, "reward"].reshape(count, 1).float()
    terminated, truncated = _ends(raw, name, row_end)
    done = terminated | truncated
    episode = torch.cumsum(done, 0) - done.long()  # [N], 0, 0, .., 1, 1, ..
    to_go = returns_to_go(raw[NEXT, "reward"].reshape(count), done)  # [N] float64
    out["episode"] = episode
    out["returns_to_go"] = to_go.float().unsqueeze(-1)
    nxt["returns_to_go"] = (
        (to_go - raw[NEXT, "reward"].reshape(count).double()).float().unsqueeze(-1)
    )
    for key, value in (("done", done), ("terminated", terminated), ("truncated", truncated)):
        nxt[key] = value.unsqueeze(-1)
    out[NEXT] = nxt
    check_episodes(out, name)
    return out


def returns_to_go(reward: torch.Tensor, done: torch.Tensor) -> torch.Tensor:
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


def _ends(
    raw: TensorDictBase, name: str, row_end: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Terminated and truncated [N]; where data breaks off without either, truncated."""
    count = raw.batch_size[0]
    terminated = raw[NEXT, "terminated"].reshape(count).bool()
    truncated = (
        raw[NEXT, "truncated"].reshape(count).bool()
        if (NEXT, "truncated") in raw.keys(True)
        else torch.zeros_like(terminated)
    )
    done = terminated | truncated
    if (NEXT, "done") in raw.keys(True):
        done = done | raw[NEXT, "done"].reshape(count).bool()
    if row_end is not None:
        done = done | row_end.to(done.device)
    for key in ("episode", ("collector", "traj_ids")):
        if key in raw.keys(True):
            number = raw[key].reshape(count)
            changes = number[1:] != number[:-1]
            done = torch.cat([done[:-1] | changes, done[-1:]])
    done[-1] = True
    return terminated, truncated | (done & ~terminated)


def _observation(raw: TensorDictBase, name: str, keys: Sequence[str | Key] | None) -> torch.Tensor:
    """The observation as one vector a step, [N, O] float32."""
    count = raw.batch_size[0]
    value = raw.get("observation")
    nested = isinstance(value, TensorDictBase)  # as Minari nests a Dict
    if not nested and keys is None:
        # GymEnv puts the entries of a goal task side by side with the rest
        flat = ["observation"] + (["desired_goal"] if "desired_goal" in raw.keys() else [])
        keys = ordered_keys(raw.select(*flat)) if len(flat) > 1 else flat
    elif keys is None:
        keys = ordered_keys(value)
    where = value if nested else raw
    parts = []
    for key in keys:
        if key not in where.keys(True, True):
            have = ", ".join(map(str, sorted(where.keys(True, True), key=str)))
            raise TDError(f"{name}: no observation entry {key!r}: there are {have}")
        parts.append(_column(where[key], count).float())
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def _column(value: torch.Tensor, count: int) -> torch.Tensor:
    """Flatten what stands behind the first dimension: [N, ...] to [N, D]."""
    return value.reshape(count, -1)


def _from_buffer(buffer: ReplayBuffer) -> TensorDictBase:
    """All that a replay buffer holds, in the order it was written."""
    if len(buffer) == 0:
        raise TDError("replay buffer: it is empty, fill it before loading episodes from it")
    return buffer[:]
