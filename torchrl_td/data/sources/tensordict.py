"""Steps from TorchRL's own containers: TensorDicts in TED layout and replay buffers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import LazyStackedTensorDict, TensorDictBase, lazy_stack
from torch import Tensor
from torchrl.data import ReplayBuffer, TensorDictMaxValueWriter
from torchrl.data.replay_buffers.writers import RoundRobinWriter

from torchrl_td.data.choices import one_hot_choices
from torchrl_td.data.keys import Key
from torchrl_td.data.source import Steps
from torchrl_td.data.sources.rows import NUMBERS, broken_off, ordered_rows, repeated_ends, written
from torchrl_td.data.transitions import as_flags, as_float, flat_entries, join
from torchrl_td.data.validation import check_achieved_goal, warn_once
from torchrl_td.errors import InputError, first_line

_GOAL_TASK = ("observation", "achieved_goal", "desired_goal")
_LOOKED_AT = 1000  # steps that tell whether the observation holds the goal achieved


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
    dim = buffer.storage.ndim - 1
    length = contents.batch_size[dim]
    full = contents.batch_size[: dim + 1].numel() == buffer.storage.max_size
    if not full or not 0 < cursor < length:
        return contents
    # A full ring: what comes after the cursor is older than what stands before it.
    if isinstance(contents, LazyStackedTensorDict) and contents.stack_dim == dim == 0:
        stacked = contents.tensordicts
        return lazy_stack([*stacked[cursor:], *stacked[:cursor]])
    newer, older = contents.split([cursor, length - cursor], dim)
    begun = older.select("is_init", strict=False).get("is_init", None)
    if begun is not None and not begun.select(dim, 0).all():
        warn_once(
            "replay buffer: it is full, and the beginning of its oldest episode was overwritten; "
            "the rest of it is taken for an episode"
        )
    return torch.cat([older, newer], dim)


def steps_from_tensordict(
    raw: TensorDictBase, name: str, keys: Sequence[str | Key] | None = None
) -> Steps:
    """The steps of a TED tensordict, each trajectory's together and in order.

    Args:
        raw: as for :func:`torchrl_td.data.sources.rows.ordered_rows`.
        name: of the source, for messages.
        keys: entries of the observation to join; None for the documented order.

    Raises:
        InputError: a key is missing, or the data cannot be used.
    """
    if raw.batch_dims == 0 or raw.batch_size.numel() == 0:
        raise InputError(f"{name}: it holds no steps; it needs a batch size of [N], N > 0")
    raw, ends = ordered_rows(raw.detach(), name)
    have = set(raw.keys(True))
    for key in ("action", ("next", "reward")):
        if key not in have:
            raise InputError(f"{name}: key {written(key)!r} is missing; steps need TED keys")
        if isinstance(raw.get(key), TensorDictBase):
            raise InputError(
                f"{name}: {written(key)!r} is a Dict; one vector a step is planned for"
            )
    count = raw.batch_size[0]
    numbered = any(key in have for key in NUMBERS)
    terminated, truncated = _flags(raw, name, ends, numbered)
    done = terminated | truncated
    if keys is None:
        check_achieved_goal(_goal_entries(raw), name)
    keys = _chosen(raw, keys, name)
    observation = _observation(raw, keys, name, "observation")
    if _compact(raw, keys):
        following = _next_rows(observation, done | ends)
    else:
        following = _observation(raw.get("next"), keys, name, "next/observation")
    if observation.shape == following.shape:  # else it is refused later, by its sizes
        following = _without_zeros(observation, following, done)
        begins = torch.zeros_like(done)
        if "is_init" in have:
            begins = as_flags(raw.get("is_init"), name, "is_init")
        step = (observation, following, raw.get("action"), raw.get(("next", "reward")))
        repeated = repeated_ends(step, done, ends)
        known = done | ends
        ends = known | broken_off(observation, following, begins, known, name, numbered)
    else:
        repeated, ends = torch.zeros_like(done), done | ends
    steps = Steps(
        observation=observation,
        action=one_hot_choices(raw.get("action").reshape(count, -1), name),
        next_observation=following,
        reward=raw.get(("next", "reward")).reshape(count, -1),
        terminated=terminated,
        truncated=truncated,
        ends=ends,
    )
    if repeated.any():
        warn_once(
            f"{name}: {int(repeated.sum())} of {count} rows repeat the end of an episode (as of "
            "break_when_all_done=True) and are left out"
        )
        steps = Steps(*(value[~repeated] for value in steps))
    return steps


def _flags(raw: TensorDictBase, name: str, ends: Tensor, numbered: bool) -> tuple[Tensor, Tensor]:
    """Terminated and truncated [N], from whichever flags there are."""
    following = raw.get("next")
    flags = {
        key: as_flags(following.get(key), name, f"next/{key}")
        for key in ("done", "terminated", "truncated")
        if key in following.keys()
    }
    no = torch.zeros_like(ends)
    if not flags and numbered:
        return no, ends  # the numbers alone say where episodes end
    if not flags:
        raise InputError(
            f"{name}: key 'next/done' is missing, as are 'next/terminated' and "
            "'next/truncated'; steps need one of them to tell where episodes end"
        )
    truncated = flags.get("truncated", no)
    # As in TorchRL, an end that is said to be neither is a termination.
    terminated = flags.get("terminated", flags.get("done", no) & ~truncated)
    return terminated, truncated | (flags.get("done", no) & ~terminated)


def _goal_entries(raw: TensorDictBase) -> dict[Key, Tensor]:
    """Goal and observation of some steps [n, ...], by path, as far as there are any."""
    shown = raw.get("observation", None)
    entries = flat_entries(shown if isinstance(shown, TensorDictBase) else raw)
    shown = {p: value[:_LOOKED_AT] for p, value in entries.items() if p[0] in _GOAL_TASK}
    return {p: value for p, value in shown.items() if not value.is_complex()}


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


def _compact(raw: TensorDictBase, keys: Sequence[str | Key] | None) -> bool:
    """Whether no next observation is stored, as a collector with ``compact_obs=True`` leaves it."""
    heads = {key if isinstance(key, str) else key[0] for key in keys or ()}
    return not {"observation", *heads} & set(raw.get("next").keys())


def _next_rows(observation: Tensor, ends: Tensor) -> Tensor:
    """The observations [N, O] of the steps after; at an end, whose is not stored, its own."""
    following = torch.cat([observation[1:], observation[-1:]])
    return observation.where(ends.unsqueeze(-1), following)


def _without_zeros(observation: Tensor, following: Tensor, done: Tensor) -> Tensor:
    """The next observations [N, O], those that were zeroed at every end not taken for states.

    TorchRL's ``D4RLExperienceReplay`` zeroes them, for want of what followed. They become the
    state once more, by which :func:`~torchrl_td.data.transitions.successor_known` tells them.
    """
    if observation.shape != following.shape or following[done].any():
        return following
    return following.where(~done.unsqueeze(-1), observation)
