"""Actions that are choices among a few, as vectors with a 1 at the one chosen."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torch.nn import functional as F
from torchrl.data import Categorical, OneHot

from torchrl_td.errors import InputError

_MOST = 4096  # choices


def one_hot_choices(action: Any, name: str, key: str = "action", count: int | None = None) -> Any:
    """Choices as bool [n, C]; actions that are none come back as they are.

    Args:
        action: array or tensor [n, ...]: whole numbers are choices counted from 0, and so are rows
            of a single 1 among zeros.
        name: of the source, for messages.
        key: of the action, for messages.
        count: C, where it is known; else the highest choice tells.

    Raises:
        InputError: a choice is below 0, or above what there is.

    >>> one_hot_choices(torch.tensor([1, 0, 2]), "mine").long()
    tensor([[0, 1, 0],
            [1, 0, 0],
            [0, 0, 1]])
    >>> one_hot_choices(torch.tensor([[0.5, 0.5]]), "mine")
    tensor([[0.5000, 0.5000]])
    """
    value = torch.as_tensor(action)
    if value.is_complex() or not len(value):
        return action
    rows = value.reshape(len(value), -1)  # [n, A]
    if rows.shape[-1] > 1:
        single = ((rows == 0) | (rows == 1)).all() and (rows.sum(-1) == 1).all()
        return rows.bool() if single else action
    if value.is_floating_point():
        return action
    low, high = (int(bound) for bound in torch.aminmax(rows.long()))
    there = count or max(high + 1, 2)
    if low < 0 or high >= there or there > _MOST:
        raise InputError(
            f"{name}: {key} holds whole numbers from {low} to {high}, which are taken for choices "
            f"from 0 to {min(there, _MOST) - 1}; count them from 0, or convert numbers to float32"
        )
    return F.one_hot(rows[:, 0].long(), there).bool()


def are_choices(episodes: TensorDictBase) -> bool:
    """Whether the actions of a dataset are choices, which are stored as bool."""
    return episodes["action"].dtype == torch.bool


def choices_of(spec: Any) -> int | None:
    """How many choices a spec of actions has; None where it is of numbers."""
    return int(spec.space.n) if isinstance(spec, (OneHot, Categorical)) else None


def written_choice(action: Tensor, spec: Any | None) -> Tensor:
    """A choice [..., C] with a 1 in it, as an environment's spec wants it.

    Args:
        action: floats.
        spec: OneHot, of which it gets the type, or Categorical, for which it becomes the number of
            the choice [...] (or [..., 1], as the spec has it); ``None`` for OneHot.
    """
    if not isinstance(spec, Categorical) or isinstance(spec, OneHot):
        return action.to(torch.int64 if spec is None else spec.dtype)
    number = action.argmax(-1, keepdim=bool(spec.shape) and spec.shape[-1] == 1)
    return number.to(spec.dtype)


def widened(episodes: TensorDictBase, count: int) -> TensorDictBase:
    """A dataset with as many choices as the environment has: the data may never take the last."""
    have = episodes["action"].shape[-1]
    if not are_choices(episodes) or have >= count:
        return episodes
    episodes = episodes.copy()
    episodes["action"] = F.pad(episodes["action"], (0, count - have))
    return episodes


def with_float_actions(episodes: TensorDictBase) -> TensorDictBase:
    """A dataset with its choices as floats, as networks read them."""
    if not are_choices(episodes):
        return episodes
    episodes = episodes.copy()
    episodes["action"] = episodes["action"].float()
    return episodes
