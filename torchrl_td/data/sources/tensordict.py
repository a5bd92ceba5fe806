"""Steps from TorchRL's own containers: TensorDicts in TED layout and replay buffers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import LazyStackedTensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer, TensorDictMaxValueWriter
from torchrl.data.replay_buffers.writers import RoundRobinWriter

from torchrl_td.data.keys import Key
from torchrl_td.data.transitions import Steps, as_float, flat_entries, join
from torchrl_td.errors import InputError, first_line

_NUMBERS: tuple[str | Key, ...] = ("episode", ("collector", "traj_ids"))
_MASK = ("collector", "mask")
_GOAL_TASK = ("observation", "achieved_goal", "desired_goal")
_LOOKED_AT = 1000  # steps that tell whether the observation holds the goal achieved
_ENDS = ("done", "terminated", "truncated")


def buffer_contents(buffer: ReplayBuffer) -> TensorDictBase:
    """All that a replay buffer holds, oldest first.

    Raises:
        InputError: it is empty, holds no TensorDict or entries that make none together, or does
            not keep the order of writing.
    """
    if len(buffer) == 0:
        raise InputError("replay buffer: it is empty, fill it before loading episodes from it")
    writer = buffer.writer
    if isinstance(writer, TensorDictMaxValueWriter):
        raise InputError(
            "replay buffer: its writer keeps the best steps and not their order; "
            "load episodes from a buffer with the default writer"
        )
    try:
        contents = buffer[:]
        if isinstance(contents, LazyStackedTensorDict):
            contents = contents.contiguous()
    except Exception as error:  # whatever putting its entries together raises
        raise InputError(
            f"replay buffer: its entries do not make one TensorDict ({first_line(error)}); store "
            "steps of equal keys and shapes, as in a TensorDictReplayBuffer over LazyTensorStorage"
        ) from error
    if not isinstance(contents, TensorDictBase):
        raise InputError(
            f"replay buffer: it holds {type(contents).__name__}, not a TensorDict; "
            "use a TensorDictReplayBuffer"
        )
    cursor = int(writer._cursor) if isinstance(writer, RoundRobinWriter) else 0
    length = contents.batch_size[-1]
    if contents.batch_size.numel() == buffer.storage.max_size and 0 < cursor < length:
        # A full ring: what comes after the cursor is older than what stands before it.
        dim = contents.batch_dims - 1
        older, newer = contents.split([cursor, length - cursor], dim)[::-1]
        contents = torch.cat([older, newer], dim)
    return contents


def steps_from_tensordict(
    raw: TensorDictBase, name: str, keys: Sequence[str | Key] | None = None
) -> Steps:
    """The steps of a TED tensordict, each trajectory's together and in order.

    Args:
        raw: steps in order, of batch size [N], or [..., T] with a piece of trajectory a
            row. Where ``("collector", "traj_ids")`` or ``episode`` numbers the
            trajectories, their steps may be interleaved; where ``("collector", "mask")``
            marks padding, it is left out.
        name: of the source, for messages.
        keys: entries of the observation to join; None for the documented order.

    Raises:
        InputError: a key is missing, or the data cannot be used.
    """
    if raw.batch_dims == 0 or raw.batch_size.numel() == 0:
        raise InputError(f"{name}: it holds no steps; it needs a batch size of [N], N > 0")
    have = set(raw.keys(True))
    for key in ("action", ("next", "reward")):
        if key not in have:
            raise InputError(f"{name}: key {_written(key)!r} is missing; steps need TED keys")
        if isinstance(raw.get(key), TensorDictBase):
            raise InputError(
                f"{name}: {_written(key)!r} is a Dict; one vector a step is planned for"
            )
    raw, break_after = _in_order(raw, name)
    count = raw.batch_size[0]
    terminated, truncated = _ends(raw, name, break_after)
    keys = _chosen(raw, keys, name)
    observation = _observation(raw, keys, name, "observation")
    following = _observation(raw.get("next"), keys, name, "next/observation")
    return Steps(
        observation=observation,
        action=raw.get("action").reshape(count, -1),
        next_observation=_without_zeros(observation, following, terminated | truncated),
        reward=raw.get(("next", "reward")).reshape(count, -1),
        terminated=terminated,
        truncated=truncated,
    )


def _in_order(raw: TensorDictBase, name: str) -> tuple[TensorDictBase, Tensor]:
    """Steps [N] with each trajectory's together, and where a trajectory's data breaks off."""
    row_end = torch.zeros(raw.batch_size, dtype=torch.bool, device=raw.device)
    if raw.batch_dims > 1:
        row_end[..., -1] = True  # a row's last step is followed by another row's first
    if _MASK in raw.keys(True):
        mask = raw.get(_MASK).reshape(raw.batch_size).bool()
        if not mask.any():
            raise InputError(f"{name}: all its steps are masked out; there is nothing to load")
        row_end[..., :-1] |= mask[..., :-1] & ~mask[..., 1:]
        raw, row_end = raw[mask], row_end[mask]
    raw, row_end = raw.reshape(-1), row_end.reshape(-1)
    number = next((raw.get(key) for key in _NUMBERS if key in raw.keys(True)), None)
    if number is None:
        row_end[-1] = True
        return raw, row_end
    number = number.reshape(raw.batch_size[0], -1)[:, 0]
    change = torch.ones_like(number, dtype=torch.bool)
    change[:-1] = number[1:] != number[:-1]
    found, inverse = torch.unique(number, return_inverse=True)
    if int(change.sum()) != len(found):  # interleaved
        row = torch.arange(len(number), device=number.device)
        begins = torch.full_like(found, len(number)).scatter_reduce(0, inverse, row, "amin")
        order = torch.argsort(begins[inverse], stable=True)  # as they began
        raw, number = raw[order], number[order]
        change[:-1] = number[1:] != number[:-1]
    return raw, change  # the number says where trajectories end; rows may share one


def _ends(raw: TensorDictBase, name: str, break_after: Tensor) -> tuple[Tensor, Tensor]:
    """Terminated and truncated [N]; where data breaks off without either, truncated."""
    nxt, count = raw.get("next"), raw.batch_size[0]
    flags = {}
    for key in _ENDS:
        if key in nxt.keys():
            flags[key] = nxt.get(key).reshape(count, -1)[:, 0].bool()
    if not flags and not any(key in raw.keys(True) for key in _NUMBERS):
        raise InputError(
            f"{name}: key 'next/done' is missing, as are 'next/terminated' and "
            "'next/truncated'; steps need one of them to tell where episodes end"
        )
    no = torch.zeros(count, dtype=torch.bool, device=break_after.device)
    truncated = flags.get("truncated", no)
    # As in TorchRL, an end that is said to be neither is a termination.
    terminated = flags.get("terminated", flags.get("done", no) & ~truncated)
    done = terminated | truncated | flags.get("done", no) | break_after
    return terminated.cpu(), (truncated | (done & ~terminated)).cpu()


def goal_entries(raw: TensorDictBase) -> dict[Key, Tensor]:
    """Goal and observation of some steps [n, ...], by path, as far as there are any."""
    shown = raw.get("observation", None)
    entries = flat_entries(shown if isinstance(shown, TensorDictBase) else raw)
    dims = raw.batch_dims
    return {
        path: value.flatten(0, dims - 1)[:_LOOKED_AT]
        for path, value in entries.items()
        if path[0] in _GOAL_TASK
    }


def _chosen(
    raw: TensorDictBase, keys: Sequence[str | Key] | None, name: str
) -> Sequence[str | Key] | None:
    """The entries to join: those asked for, else ``observation`` and the goal, unless joined."""
    if keys is not None:
        return keys
    value = raw.get("observation", None)
    if value is None:
        raise InputError(
            f"{name}: key 'observation' is missing; name the observation's entries with "
            "observation_keys"
        )
    goal = raw.get("desired_goal", None)
    if isinstance(value, TensorDictBase) or goal is None:
        return None  # a Dict nests its goal, as in Minari's data
    count = raw.batch_size[0]
    entries = flat_entries(goal, ("desired_goal",))
    joined = join(entries, sorted(entries), name, "observation").reshape(count, -1)
    tail = value.reshape(count, -1)[:, -joined.shape[-1] :]
    if tail.shape == joined.shape and torch.allclose(
        as_float(tail, name, "observation"), joined.float(), rtol=1e-6, atol=1e-6
    ):
        return None  # ``CatTensors`` joined it already and left its parts in place
    return ["observation", *sorted(entries)]


def _observation(
    raw: TensorDictBase, keys: Sequence[str | Key] | None, name: str, called: str
) -> Tensor:
    """The observation as one vector a step, [N, O]."""
    value = raw.get("observation", None)
    if isinstance(value, TensorDictBase):
        entries = flat_entries(value)
    elif keys is None:
        if value is None:
            raise InputError(f"{name}: key {called!r} is missing; steps need TED keys")
        entries = {("observation",): value}
    else:
        entries = {p: v for p, v in flat_entries(raw).items() if p[0] != "next"}
    return join(entries, keys, name, called).reshape(raw.batch_size[0], -1)


def _without_zeros(observation: Tensor, following: Tensor, done: Tensor) -> Tensor:
    """The next observations [N, O], those that were zeroed at every end not taken for states.

    TorchRL's ``D4RLExperienceReplay`` zeroes them, for want of what followed. They become the
    state once more, by which :func:`~torchrl_td.data.transitions.successor_known` tells them.
    """
    if observation.shape != following.shape or following[done].any():
        return following
    return following.where(~done.unsqueeze(-1), observation)


def _written(key: str | Key) -> str:
    return key if isinstance(key, str) else "/".join(key)
