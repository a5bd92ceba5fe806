"""The border to the tensordict: an actor's entries and state of any batch shape, and its specs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor
from torchrl.data import Composite, TensorSpec, Unbounded

from torchrl_td.actors.specs import PlannerPrimer
from torchrl_td.data.normalizer import check_floats
from torchrl_td.errors import InputError

_REMEDY = "append actor.make_tensordict_primer() to the environment's transforms"


def check_precision(dtype: torch.dtype) -> None:
    """Refuses weights of another type than float32, of which the planner makes no plans.

    Args:
        dtype: of the weights.

    Raises:
        InputError: it is another.
    """
    if dtype != torch.float32:
        raise InputError(f"the planner is in {dtype}, but needs single precision: actor.float()")


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
    tensordict.set(key, value if single else value.reshape((*shape, *value.shape[1:])))


class PlannerState:
    """Where a planner keeps its state in a tensordict, and what that looks like.

    Args:
        key: the entry that holds it, nested or not.
        horizon: H.
        width: O, of a state.
        numbers: names of single numbers that are kept, too.

    Attributes:
        keys: the whole key of each part.
        noise_key: the whole key of the noise that may be given beside them.

    Examples:
        >>> from tensordict import TensorDict
        >>> from torchrl_td.actors.tensordict_io import PlannerState
        >>> state = PlannerState(("agent", "memory"), horizon=8, width=3)
        >>> state.keys["plan"], state.spec["plan"].shape
        (('agent', 'memory', 'plan'), torch.Size([8, 3]))
    """

    def __init__(
        self, key: NestedKey, horizon: int, width: int, numbers: Sequence[str] = ()
    ) -> None:
        self.key = unravel_key(key)
        self.horizon, self.width, self.numbers = horizon, width, tuple(numbers)
        self._prefix = (self.key,) if isinstance(self.key, str) else self.key
        self._shapes = {name: spec.shape for name, spec in self.spec.items()}
        self.keys: dict[str, tuple[str, ...]] = {
            name: (*self._prefix, name) for name in self._shapes
        }
        self.noise_key = (*self._prefix, "noise")

    @property
    def spec(self) -> Composite:
        """Of one environment."""
        floats = {"dtype": torch.float32}
        return Composite(
            observation=Unbounded((self.horizon - 1, self.width), **floats),
            returns_to_go=Unbounded((self.horizon - 1, 1), **floats),
            steps=Unbounded((1,), dtype=torch.int64),
            plan=Unbounded((self.horizon, self.width), **floats),
            plan_returns_to_go=Unbounded((self.horizon, 1), **floats),
            **{name: Unbounded((1,), **floats) for name in self.numbers},
        )

    def primer(
        self, action_key: NestedKey, choices: Any | None = None, action_width: int | None = None
    ) -> PlannerPrimer:
        """The transform that puts an empty state into an environment at each reset.

        Args:
            action_key: of the planner's actions, which the environment must be able to take.
            choices: their spec, where they are choices.
            action_width: how many numbers they are else, if that is known.
        """
        spec = self.spec
        for name in reversed(self._prefix[1:]):
            spec = Composite({name: spec})
        primers = {self._prefix[0]: spec}
        return PlannerPrimer(
            action_key, primers, choices, action_width, reset_key="_reset", expand_specs=True
        )

    def read(
        self, tensordict: TensorDictBase, device: torch.device, is_init: Tensor
    ) -> dict[str, Tensor]:
        """The parts by name, each [B, ...] whatever the tensordict's batch shape.

        Args:
            tensordict: of B elements.
            device: where the planner is.
            is_init: bool [B, 1], where nothing of the state is read.

        Raises:
            InputError: if a part is missing, of another shape or elsewhere, or (on the CPU) holds
                what is not finite.
        """
        found = dict(tensordict.get(self.key, {}).items())
        state = {}
        for name, key in self.keys.items():
            shape = self._shapes[name]
            value = check_entry(found.get(name), tensordict, key, shape, device, _REMEDY)
            state[name] = value if name == "steps" else check_floats(key, value, is_init)
        return state

    def write(self, tensordict: TensorDictBase, state: dict[str, Tensor]) -> None:
        """Writes the next state under ``"next"``."""
        for name, key in self.keys.items():
            write_entry(tensordict, ("next", *key), state[name])


class SpecifiedModule(TensorDictModuleBase):
    """Knows the specs of its outputs, the first of which is the action.

    A subclass calls :meth:`set_out_keys` once and has a property ``spec``, made by
    :meth:`specify`.
    """

    spec: Composite

    def set_out_keys(self, outputs: Sequence[NestedKey], state: Sequence[NestedKey]) -> None:
        """Sets ``out_keys``.

        Args:
            outputs: keys of the outputs, ``"_"`` for those that are not written.
            state: keys that the next step reads.
        """
        self._outputs, self._carried = list(outputs), list(state)
        self.out_keys = [*(key for key in outputs if key != "_"), *state]

    def specify(self, *specs: TensorSpec | None) -> Composite:
        """The specs of the outputs by their keys; ``None`` where one is not known.

        What the next step reads has none, as TorchRL's own modules have it for outputs without a
        spec. (A collector of TorchRL 0.14 fails on a policy on another device than the
        environment if all of its outputs have one: it asks for a set of keys.)
        """
        pairs = zip(self._outputs, specs, strict=False)
        known = {key: spec for key, spec in pairs if key != "_" and spec is not None}
        return Composite({**known, **dict.fromkeys(self._carried)})

    def write_outputs(self, tensordict: TensorDictBase, *values: Tensor) -> None:
        """Writes outputs [B, ...] in the tensordict's own batch shape."""
        for key, value in zip(self._outputs, values, strict=False):
            if key != "_":
                write_entry(tensordict, key, value)

    def random(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes a random action, and nothing else."""
        action = self._outputs[0]
        return tensordict.set(action, self.spec[action].rand(tensordict.batch_size))

    def random_sample(self, tensordict: TensorDictBase) -> TensorDictBase:
        """:meth:`random`, by its other name."""
        return self.random(tensordict)

    def select_out_keys(self, *out_keys: NestedKey) -> TensorDictModuleBase:
        """Keeps the outputs named, and what the next step reads."""
        return super().select_out_keys(*out_keys, *self._carried)
