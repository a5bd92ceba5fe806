"""An actor's entries of a tensordict of any batch shape, and the bounds of its actions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor
from torchrl.data import Composite, TensorSpec

from torchrl_td.errors import InputError


def read_entry(
    tensordict: TensorDictBase,
    key: NestedKey,
    shape: Sequence[int],
    device: torch.device,
    remedy: str,
) -> Tensor:
    """An entry as [B, *shape], whatever the tensordict's batch shape.

    Args:
        tensordict: of any batch shape; B is its number of elements.
        key: which entry.
        shape: what it must have after the batch shape.
        device: where it must lie.
        remedy: what to do if it is missing.

    Raises:
        InputError: if it is missing, of another shape or elsewhere.

    >>> from tensordict import TensorDict
    >>> td = TensorDict(observation=torch.zeros(2, 5, 3), batch_size=[2, 5])
    >>> read_entry(td, "observation", (3,), torch.device("cpu"), "see in_keys").shape
    torch.Size([10, 3])
    >>> read_entry(td, "is_init", (1,), torch.device("cpu"), "append InitTracker()")
    Traceback (most recent call last):
    torchrl_td.errors.InputError: the planner found no 'is_init'; append InitTracker()
    """
    return check_entry(tensordict.get(key, None), tensordict, key, shape, device, remedy)


def check_entry(
    value: Tensor | None,
    tensordict: TensorDictBase,
    key: NestedKey,
    shape: Sequence[int],
    device: torch.device,
    remedy: str,
) -> Tensor:
    """:func:`read_entry` of a value already read; ``key`` is what the errors call it.

    >>> from tensordict import TensorDict
    >>> td, value = TensorDict(batch_size=[2, 5]), torch.zeros(2, 5, 4)
    >>> check_entry(value, td, "observation", (4,), torch.device("cpu"), "").shape
    torch.Size([10, 4])
    """
    if value is None:
        raise InputError(f"the planner found no {key!r}; {remedy}")
    expected = (*tensordict.batch_size, *shape)
    if value.shape != expected:
        raise InputError(
            f"{key!r} has shape {list(value.shape)}, but the planner needs {list(expected)}; "
            f"check that environment, in_keys and primer are those it was trained for"
        )
    if value.device != device:
        raise InputError(
            f"{key!r} is on {value.device}, the planner on {device}; move one of them, or give "
            f"the collector policy_device"
        )
    return value if value.ndim == len(shape) + 1 else value.reshape(-1, *shape)


def write_entry(tensordict: TensorDictBase, key: NestedKey, value: Tensor) -> None:
    """Writes [B, ...], as :func:`read_entry` gives it, in the tensordict's own batch shape.

    >>> from tensordict import TensorDict
    >>> td = TensorDict(batch_size=[2, 5])
    >>> write_entry(td, "action", torch.zeros(10, 4))
    >>> td["action"].shape
    torch.Size([2, 5, 4])
    """
    shape = tensordict.batch_size
    single = len(shape) == 1
    tensordict.set(key, value if single else value.reshape(*shape, *value.shape[1:]))


def check_keys(
    name: str, keys: Sequence[NestedKey], meanings: Sequence[str], fewest: int | None = None
) -> list[NestedKey]:
    """The keys in TensorDict's canonical form.

    Args:
        name: what errors call them.
        keys: what was given.
        meanings: what they are of.
        fewest: how many must be given, if not all.

    Raises:
        InputError: if they are not as many as their meanings.

    >>> check_keys("in_keys", ["obs"], ("observation", "reset flag"))
    Traceback (most recent call last):
    torchrl_td.errors.InputError: in_keys must be 2 keys (observation, reset flag), got ['obs']
    """
    most = len(meanings)
    if isinstance(keys, str) or not (fewest or most) <= len(keys) <= most:
        raise InputError(
            f"{name} must be {len(meanings)} keys ({', '.join(meanings)}), got {keys!r}"
        )
    return [unravel_key(key) for key in keys]


def check_floats(key: NestedKey, value: Tensor, unread: Tensor | None = None) -> Tensor:
    """The entry [B, ...] in single precision.

    Args:
        key: what errors call it.
        value: the entry.
        unread: bool [B, 1], rows that may hold anything; ``None`` for no row.

    Raises:
        InputError: if it holds no floats or, on the CPU, one that is not finite. (On a GPU the
            check would wait for the device; there a NaN gives a NaN action.)

    >>> check_floats("observation", torch.zeros(2, 3, dtype=torch.float64)).dtype
    torch.float32
    >>> check_floats("observation", torch.tensor([0.0, torch.nan]))
    Traceback (most recent call last):
    torchrl_td.errors.InputError: 'observation' holds NaN or Inf; the simulation diverged or was fed
    one
    """
    if not value.is_floating_point():
        raise InputError(
            f"{key!r} is {value.dtype}, but a float is needed; append DoubleToFloat() or "
            f"ObservationNorm(...) to the environment"
        )
    # The sum first, for it is the faster check; it may overflow where every value is finite.
    if _readable(value) and not math.isfinite(value.sum()):
        finite = torch.isfinite(value)
        if unread is not None:
            finite |= unread.view(-1, *[1] * (value.ndim - 1))
        if not bool(finite.all()):
            raise InputError(f"{key!r} holds NaN or Inf; the simulation diverged or was fed one")
    return value.float()


def _readable(value: Tensor) -> bool:
    """Whether a value can be looked at now: not while a program is traced, nor under ``vmap``."""
    if value.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(value)


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
        >>> from torchrl_td.actors.tensordict_io import action_bounds
        >>> spec = Composite(action=Bounded(-1.0, 1.0, (5, 2)), shape=(5,))
        >>> action_bounds(spec, "action", 2)
        (tensor([-1., -1.]), tensor([1., 1.]))
    """
    if isinstance(spec, Composite):
        spec = _entry(spec, key)
    space: Any = spec.space if isinstance(spec, TensorSpec) else None
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


def check_action(key: NestedKey, action: Tensor) -> Tensor:
    """The action [B, A], which a finite observation that is far too large would make NaN.

    Args:
        key: of the observation, for the message.
        action: as planned.

    Raises:
        InputError: on the CPU, as :func:`check_floats`.
    """
    if _readable(action) and not math.isfinite(action.sum()):
        raise InputError(
            f"{key!r} is so large that the plan overflows; the simulation diverged, or the "
            f"observation is in other units than the data"
        )
    return action
