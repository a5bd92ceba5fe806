"""Checks of an actor's keys and action spec, and the primer of its state."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor
from torchrl.data import Categorical, Composite, OneHot, TensorSpec
from torchrl.envs.transforms import TensorDictPrimer

from torchrl_td.errors import InputError


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
        InputError: if they are not as many as their meanings, or one is given twice.

    >>> check_keys("in_keys", ["obs"], ("observation", "reset flag"))
    Traceback (most recent call last):
    torchrl_td.errors.InputError: in_keys must be 2 keys (observation, reset flag), got ['obs']
    """
    most = len(meanings)
    if isinstance(keys, str) or not (fewest or most) <= len(keys) <= most:
        raise InputError(
            f"{name} must be {f'{fewest} to ' if fewest else ''}{most} keys "
            f"({', '.join(meanings)}), got {keys!r}"
        )
    found = [unravel_key(key) for key in keys]
    written = [key for key in found if key != "_"]  # TorchRL's for what is not written
    if len(set(written)) < len(written):
        raise InputError(f"{name} must be keys of their own, got {keys!r}")
    return found


def check_apart(keys: Sequence[NestedKey]) -> None:
    """Refuses keys of which one is another, or lies within another.

    Args:
        keys: what an actor reads, writes and keeps, in TensorDict's canonical form.

    Raises:
        InputError: at the first two of them.

    >>> check_apart(["observation", ("plan", "draft"), "plan"])
    Traceback (most recent call last):
    torchrl_td.errors.InputError: ('plan', 'draft') and 'plan' are one entry, or one holds the
    other; give in_keys, out_keys and planner_key apart
    """
    keys = [key for key in keys if key != "_"]
    paths = [(key,) if isinstance(key, str) else key for key in keys]
    for (one, first), (other, second) in combinations(zip(keys, paths, strict=True), 2):
        shorter = min(len(first), len(second))
        if first[:shorter] == second[:shorter]:
            raise InputError(
                f"{one!r} and {other!r} are one entry, or one holds the other; give in_keys, "
                f"out_keys and planner_key apart"
            )


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
        >>> from torchrl_td.actors.specs import action_bounds
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


def choice_spec(spec: Any, key: NestedKey, count: int | None) -> OneHot | Categorical:
    """What an actor of choices writes in one environment.

    Args:
        spec: the environment's ``action_spec`` or ``full_action_spec``; ``None`` for OneHot.
        key: the action's, as in :func:`action_bounds`.
        count: how many choices the planner knows.

    Raises:
        InputError: if it is none of so many choices.

    Examples:
        >>> from torchrl.data import Categorical
        >>> from torchrl_td.actors.specs import choice_spec
        >>> choice_spec(Categorical(2), "action", 2).shape
        torch.Size([])
    """
    if isinstance(spec, Composite):
        spec = _entry(spec, key)
    if spec is None and count is not None:
        return OneHot(count, dtype=torch.int64)  # as TorchRL's of a Gymnasium environment
    if not isinstance(spec, (OneHot, Categorical)) or spec.space.n != count:
        what = f"{spec.space.n} choices" if isinstance(spec, (OneHot, Categorical)) else "numbers"
        raise InputError(
            f"action_spec is a {type(spec).__name__} of {what}, but the planner's actions are "
            f"{count} choices; give the spec of an environment that it was trained for"
        )
    if isinstance(spec, OneHot):
        return OneHot(spec.space.n, dtype=spec.dtype)
    return Categorical(
        spec.space.n, spec.shape[-1:] if spec.shape[-1:] == (1,) else (), dtype=spec.dtype
    )


class PlannerPrimer(TensorDictPrimer):
    """TorchRL's primer, which refuses an environment that cannot take a planner's actions.

    Args:
        action_key: of the planner's actions.
        primers: specs of what is put into the environment.
        choices: what a planner of choices writes; ``None`` for numbers.
        width: of an action of numbers, where it is known.
        **kwargs: as for :class:`~torchrl.envs.transforms.TensorDictPrimer`.
    """

    def __init__(
        self,
        action_key: NestedKey,
        primers: dict[str, Composite],
        choices: OneHot | Categorical | None = None,
        width: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(primers, **kwargs)
        self.action_key, self.choices, self.width = action_key, choices, width

    def transform_input_spec(self, input_spec: Composite) -> Composite:
        """The environment's input spec, as it is.

        Raises:
            InputError: if its action is of another kind than the planner's: so many real numbers,
                or choices written as it writes them.
        """
        actions = input_spec["full_action_spec"]
        spec = actions[self.action_key] if self.action_key in actions.keys(True, True) else None
        says = None if spec is None else self._misfit(spec, actions.ndim)
        if says is not None:
            raise InputError(f"the environment's {self.action_key!r} {says}")
        return super().transform_input_spec(input_spec)

    def _misfit(self, spec: TensorSpec, batch_dims: int) -> str | None:
        """What is wrong with an environment's action, if anything is."""
        found, elsewhere = type(spec).__name__, "it was trained for another environment"
        if self.choices is None:
            if not (spec.dtype.is_floating_point and spec.domain == "continuous"):
                return (
                    f"is a {found} of choices, but the planner's actions are real numbers; train "
                    f"one on data of choices"
                )
            width = spec.shape[-1] if len(spec.shape) > batch_dims else 1
            if self.width not in (None, width):
                return (
                    f"has {width} numbers, but the planner's actions have {self.width}: {elsewhere}"
                )
            return None
        if type(spec) is not type(self.choices):
            return (
                f"is a {found}, but the planner writes a {type(self.choices).__name__}; give the "
                f"actor action_spec=env.action_spec"
            )
        count, known = spec.space.n, self.choices.space.n  # type: ignore[union-attr]
        return None if count == known else f"is one of {count} choices, not of {known}: {elsewhere}"
