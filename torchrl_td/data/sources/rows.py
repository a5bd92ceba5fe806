"""The rows of a tensordict: which of them are steps, in what order, and where trajectories end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import LazyStackedTensorDict, TensorDictBase
from torch import Tensor

from torchrl_td.data.keys import Key
from torchrl_td.errors import InputError, first_line

NUMBERS: tuple[str | Key, ...] = ("episode", ("collector", "traj_ids"), "traj_ids")
"""Entries that number trajectories."""

_MASKS: tuple[str | Key, ...] = (("collector", "mask"), "mask", "masks")
_ROUNDING = 1e-3  # of the standard deviation: what storing a state twice may change
_FEW = 0.1  # of the steps within trajectories: so many may lead elsewhere and be taken for ends


def ordered_rows(raw: TensorDictBase, name: str) -> tuple[TensorDictBase, Tensor]:
    """Steps [N], each trajectory's together and in order, and the last ones [N] bool of each.

    Padding is left out. Where ``episode`` or ``("collector", "traj_ids")`` numbers trajectories,
    their steps may be interleaved.

    Args:
        raw: steps in order, of batch size [N], or [..., T] with a piece of trajectory a row;
            lazily stacked ones may differ in length.
        name: of the source, for messages.

    Raises:
        InputError: nothing but padding, or the numbers are no whole ones.
    """
    raw, ends = _flat(raw, name)
    key = next((key for key in NUMBERS if key in raw.keys(True)), None)
    if key is None:
        return raw, ends
    number = _one_a_step(raw.get(key), len(raw), name, key)
    if number.is_floating_point() and not (number == number.round()).all():
        raise InputError(f"{name}: {written(key)} must be a whole number a step; mend or drop it")
    found, inverse = torch.unique(number, return_inverse=True)
    row = torch.arange(len(number), device=number.device)
    begins = torch.full_like(row[: len(found)], len(row)).scatter_reduce(0, inverse, row, "amin")
    order = torch.argsort(begins[inverse], stable=True)  # as they began
    raw, number = raw[order], number[order]
    ends = torch.ones_like(number, dtype=torch.bool)
    ends[:-1] = number[1:] != number[:-1]
    return raw, ends  # rows may share a trajectory: its number says where it ends


def _flat(raw: TensorDictBase, name: str) -> tuple[TensorDictBase, Tensor]:
    """Steps [N] without padding, and the last of each row [N] bool."""
    if isinstance(raw, LazyStackedTensorDict):
        try:
            raw = raw.contiguous()
        except Exception as error:  # whatever tensordict raises of unequal shapes
            if raw.tensordicts[0].batch_dims == 0:
                raise InputError(
                    f"{name}: its entries do not make one TensorDict ({first_line(error)}); store "
                    "steps of equal keys and shapes"
                ) from error
            return _joined([_flat(piece, name) for piece in raw.tensordicts], name)
    ends = torch.zeros(raw.batch_size, dtype=torch.bool, device=raw.device)
    ends[..., -1:] = True  # a row's last step is followed by another row's first
    valid = _valid(raw)
    if not valid.all():
        if not valid.any():
            raise InputError(f"{name}: all its steps are masked out; there is nothing to load")
        ends[..., :-1] |= valid[..., :-1] & ~valid[..., 1:]
        return raw[valid], ends[valid]
    return raw.reshape(-1), ends.reshape(-1)


def _joined(
    pieces: list[tuple[TensorDictBase, Tensor]], name: str
) -> tuple[TensorDictBase, Tensor]:
    """Pieces of [N] steps after one another, of the entries that all have."""
    keys = set.intersection(*(set(piece.keys(True, True)) for piece, _ in pieces))
    try:
        rows = torch.cat([piece.select(*keys) for piece, _ in pieces])
    except Exception as error:  # whatever tensordict raises of unequal shapes
        raise InputError(
            f"{name}: its rollouts do not fit together ({first_line(error)}); load rollouts of "
            "one environment"
        ) from error
    return rows, torch.cat([ends for _, ends in pieces])


def _valid(raw: TensorDictBase) -> Tensor:
    """Which rows are steps and not padding, of the shape of ``raw``'s batch size.

    A mask says so: that of ``split_trajectories``, or of ``pad_sequence``, which masks each entry.
    Without one, rows of zeros throughout at the end of a row of steps are padding.
    """
    for key in _MASKS:
        mask = raw.get(key, None)
        if isinstance(mask, TensorDictBase):
            mask = mask.get("action", None)
        known = isinstance(mask, Tensor) and mask.dtype == torch.bool
        if known and mask.numel() == raw.batch_size.numel():
            return mask.reshape(raw.batch_size)
    filled = torch.ones(raw.batch_size, dtype=torch.bool, device=raw.device)
    if raw.batch_dims < 2:
        return filled
    filled.zero_()
    for value in raw.values(True, True):
        if isinstance(value, Tensor) and value.numel():
            filled |= value.reshape(*raw.batch_size, -1).ne(0).any(-1)
    after = filled.flip(-1).cummax(-1).values.flip(-1)  # this row or a later one
    return after if filled.any() else torch.ones_like(filled)


def repeated_ends(values: Sequence[Tensor], done: Tensor, ends: Tensor) -> Tensor:
    """Rows [N] that repeat the end before them, and are no steps.

    ``rollout(break_when_all_done=True)`` keeps an environment that is done in its batch, its last
    step over again, until all are done.

    Args:
        values: all that a step holds, [N, ...] each; episodes of one step share some of it.
        done: [N] bool.
        ends: [N] bool, where another row of the batch begins after.
    """
    repeated = torch.zeros_like(done)
    repeated[1:] = done[1:] & done[:-1] & ~ends[:-1]
    for value in values:
        row = value.reshape(len(done), -1)
        repeated[1:] &= (row[1:] == row[:-1]).all(-1)
    return repeated


def broken_off(
    observation: Tensor, following: Tensor, begins: Tensor, ends: Tensor, name: str, numbered: bool
) -> Tensor:
    """Where a trajectory's data breaks off within what is taken for one, [N] bool.

    Two collectors in turn number their trajectories from 0 each, so that one's steps follow the
    other's under one number; a buffer may have lost steps in between. The next step then is not
    the one that was reached.

    Args:
        observation: [N, O].
        following: the next observations [N, O].
        begins: [N] bool, where an environment was reset.
        ends: [N] bool, ends that are known.
        name: of the source, for messages.
        numbered: whether the source numbers its trajectories.

    Raises:
        InputError: it breaks off so often that the numbers cannot be right.
    """
    within = ~ends[:-1] & ~begins[1:]
    # PyTorch knows no difference of booleans, and of unsigned integers a wrong one.
    observation, following = (
        x if x.is_floating_point() or x.is_complex() else x.float()
        for x in (observation, following)
    )
    near = _ROUNDING * observation.float().std(0, correction=0) + 1e-5 * observation[1:].abs()
    elsewhere = within & ((following[:-1] - observation[1:]).abs() > near).any(-1)
    count, steps = int(elsewhere.sum()), int(within.sum())
    breaks = torch.zeros_like(ends)
    breaks[:-1] = ~ends[:-1] & begins[1:]
    if count <= max(3, _FEW * steps):
        breaks[:-1] |= elsewhere
    elif numbered:
        raise InputError(
            f"{name}: in {100 * count / steps:.3g} % of the steps next/observation is not the "
            "observation of the trajectory's next step: the numbers of its trajectories mix "
            "several; number each anew (episode), or load each collector's data by itself, in order"
        )
    return breaks


def _one_a_step(value: Tensor, count: int, name: str, key: str | Key) -> Tensor:
    """An entry [N] or [N, 1] as [N]."""
    if value.numel() != count:
        raise InputError(
            f"{name}: {written(key)} has the shape {list(value.shape)}; it needs one number a step"
        )
    return value.reshape(-1)


def written(key: str | Key) -> str:
    """A key as messages write it."""
    return key if isinstance(key, str) else "/".join(key)
