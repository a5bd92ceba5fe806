"""The bounds that actions are clipped to, from an environment's spec of them."""

from __future__ import annotations

from typing import Any

import torch
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data import Composite, TensorSpec

from torchrl_td.errors import InputError


def action_bounds(spec: Any, key: NestedKey, width: int | None) -> tuple[Tensor, Tensor]:
    """Lowest and highest values [A] of an action.

    Args:
        spec: the environment's ``action_spec`` or ``full_action_spec``, of any batch shape.
        key: the action's, looked for in a composite spec; its only entry serves as well.
        width: A, if known.

    Raises:
        InputError: if it is no spec of one bounded action of real numbers and that width.

    Examples:
        >>> import torch
        >>> from torchrl.data import Bounded, Composite
        >>> from torchrl_td.modules.action_bounds import action_bounds
        >>> spec = Composite(action=Bounded(-1.0, 1.0, (5, 2)), shape=(5,))
        >>> action_bounds(spec, "action", 2)
        (tensor([-1., -1.]), tensor([1., 1.]))
    """
    if isinstance(spec, Composite):
        spec = _entry(spec, key)
    space = spec.space if isinstance(spec, TensorSpec) else None
    if not hasattr(space, "low") or not spec.dtype.is_floating_point:
        raise InputError(
            f"action_spec is {type(spec).__name__}, but the planner's actions are real numbers: "
            f"give a Bounded spec, or leave it out"
        )
    rows = [bound.float().reshape(-1, *spec.shape[-1:]) for bound in (space.low, space.high)]
    found = rows[0].shape[-1] if spec.shape else 1
    if width not in (None, found):
        raise InputError(f"action_spec is of {found} numbers, but the planner's action has {width}")
    if not all(torch.equal(bound, bound[:1].expand_as(bound)) for bound in rows):
        raise InputError(
            "action_spec has other bounds for some environments; give one environment's"
        )
    return rows[0][0], rows[1][0]


def _entry(spec: Composite, key: NestedKey) -> Any:
    leaves = dict(spec.items(include_nested=True, leaves_only=True))
    if key not in leaves and len(leaves) != 1:
        raise InputError(f"action_spec has no entry {key!r}, only {', '.join(map(repr, leaves))}")
    return leaves.get(key) or next(iter(leaves.values()))
