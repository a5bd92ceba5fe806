"""The planner's state as entries of a tensordict."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs.transforms import TensorDictPrimer

from torchrl_td.actors.tensordict_io import check_entry, check_floats, write_entry
from torchrl_td.errors import InputError

_REMEDY = "append actor.make_tensordict_primer() to the environment's transforms"


class PlannerState:
    """Where a planner keeps its state in a tensordict, and what that looks like.

    Args:
        key: the entry that holds it, nested or not.
        horizon: H.
        width: O, of a state.

    Attributes:
        keys: the whole key of each part.
        noise_key: the whole key of the noise that may be given beside them.

    Examples:
        >>> from tensordict import TensorDict
        >>> from torchrl_td.actors.planner_state import PlannerState
        >>> state = PlannerState(("agent", "memory"), horizon=8, width=3)
        >>> state.keys["plan"], state.spec["plan"].shape
        (('agent', 'memory', 'plan'), torch.Size([8, 3]))
    """

    def __init__(self, key: NestedKey, horizon: int, width: int) -> None:
        self.key = unravel_key(key)
        self.horizon, self.width = horizon, width
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
        )

    def primer(self, action_key: NestedKey) -> PlannerPrimer:
        """The transform that puts an empty state into an environment at each reset.

        Args:
            action_key: of the planner's actions, which the environment must be able to take.
        """
        spec = self.spec
        for name in reversed(self._prefix[1:]):
            spec = Composite({name: spec})
        primers = {self._prefix[0]: spec}
        return PlannerPrimer(action_key, primers, reset_key="_reset", expand_specs=True)

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


class PlannerPrimer(TensorDictPrimer):
    """TorchRL's primer, which refuses an environment that cannot take a planner's actions.

    Args:
        action_key: of the planner's actions.
        primers: specs of what is put into the environment.
        **kwargs: as for :class:`~torchrl.envs.transforms.TensorDictPrimer`.
    """

    def __init__(self, action_key: NestedKey, primers: dict[str, Composite], **kwargs: Any) -> None:
        super().__init__(primers, **kwargs)
        self.action_key = action_key

    def transform_input_spec(self, input_spec: Composite) -> Composite:
        """The environment's input spec, as it is.

        Raises:
            InputError: if its action is not of real numbers.
        """
        actions = input_spec["full_action_spec"]
        spec = actions[self.action_key] if self.action_key in actions.keys(True, True) else None
        if spec is not None and not (spec.dtype.is_floating_point and spec.domain == "continuous"):
            raise InputError(
                f"the environment's {self.action_key!r} is a {type(spec).__name__} of choices, but "
                f"the planner's actions are real numbers; plan for a continuous environment"
            )
        return super().transform_input_spec(input_spec)
