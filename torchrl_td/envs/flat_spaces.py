"""Observations and actions of any shape as the vectors that the data of them is read as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from torchrl_td.data.images import check_no_image
from torchrl_td.errors import InputError

_NUMBERS = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class FlatSpaces(gymnasium.Wrapper):
    """Makes every entry of the observation, and an action of numbers, a vector of floats.

    Arrays are flattened row by row, integers become floats, a Discrete entry a vector with a 1 at
    its value, a MultiDiscrete one such a vector for each of its numbers (as TorchRL gives them). A
    Dict, nested or not, stays a Dict; an action that is one choice (Discrete) stays one.

    Args:
        env: the environment.
        keys: the entries of a Dict that are read; ``None`` for all. Others that are no numbers,
            such as a Text, are left out.

    Raises:
        InputError: if an entry that is read is no array of numbers, or the action neither
            floats nor one choice.

    Examples:
        >>> import gymnasium
        >>> from gymnasium import spaces
        >>> from torchrl_td.envs.flat_spaces import FlatSpaces
        >>> env = gymnasium.make("Pendulum-v1")
        >>> env.observation_space = spaces.Dict(
        ...     picture=spaces.Box(0, 255, (8, 8), "uint8"), phase=spaces.Discrete(3)
        ... )
        >>> FlatSpaces(env).observation_space["phase"], FlatSpaces(env).observation_space["picture"]
        (Box(0.0, 1.0, (3,), float32), Box(0.0, 255.0, (64,), float32))
    """

    def __init__(self, env: gymnasium.Env, keys: Sequence[Any] | None = None) -> None:
        super().__init__(env)
        self._name = env.spec.id if env.spec else str(env)
        read = None if keys is None else {key if isinstance(key, str) else key[0] for key in keys}
        self.observation_space = self._flat_space(env.observation_space, (), read)
        space = env.action_space
        self.first: int | None = None  # the first choice, where actions are choices
        if isinstance(space, spaces.Discrete):
            self.first, self.action_space = int(space.start), spaces.Discrete(int(space.n))
            return
        if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise InputError(
                f"environment {self._name!r} has {type(space).__name__} actions; "
                f"planned are a Box of floats or a Discrete choice"
            )
        self._action_shape, self._action_type = space.shape, space.dtype
        self.action_space = space if space.shape and len(space.shape) == 1 else _flat_box(space)

    @staticmethod
    def needed(env: gymnasium.Env) -> bool:
        """Whether anything is not a vector of floats yet."""
        action = env.action_space
        plain = isinstance(action, spaces.Discrete) and action.start == 0
        return not (_is_flat(env.observation_space) and (plain or _is_flat(action)))

    def reset(self, **kwargs: Any):
        observation, info = self.env.reset(**kwargs)
        return _flat(observation, self.env.observation_space, self.observation_space), info

    def step(self, action: Any):
        if self.first is not None:
            action = int(action) + self.first
        else:
            action = np.asarray(action, self._action_type).reshape(self._action_shape)
        observation, *rest = self.env.step(action)
        return (_flat(observation, self.env.observation_space, self.observation_space), *rest)

    def _flat_space(
        self, space: spaces.Space, path: tuple[str, ...], read: set[str] | None
    ) -> spaces.Space:
        if isinstance(space, spaces.Dict):
            return spaces.Dict(
                {
                    name: self._flat_space(entry, (*path, name), None)
                    for name, entry in space.spaces.items()
                    if read is None or name in read or _is_numbers(entry)
                }
            )
        if not _is_numbers(space):
            entry, remedy = "observation", "wrap the environment to give a Box or a Dict of them"
            if path:
                entry = f"entry {'/'.join(path)!r} of the observation"
                remedy = "name the entries to read in task.observation_keys"
            raise InputError(
                f"environment {self._name!r}: the {entry} is a {type(space).__name__}, of which "
                f"no vector is made; {remedy}"
            )
        where = "/".join(path) or "observation"
        check_no_image(space.shape or (), f"environment {self._name!r}: {where}")
        return space if _is_flat(space) else _flat_box(space)


def _is_numbers(space: spaces.Space) -> bool:
    if isinstance(space, spaces.Dict):
        return all(map(_is_numbers, space.spaces.values()))
    return isinstance(space, _NUMBERS)


def _is_flat(space: spaces.Space) -> bool:
    if isinstance(space, spaces.Dict):
        return all(map(_is_flat, space.spaces.values()))
    is_vector = isinstance(space, spaces.Box) and len(space.shape) == 1
    return is_vector and bool(np.issubdtype(space.dtype, np.floating))


def _flat_box(space: spaces.Space) -> spaces.Box:
    flat = spaces.flatten_space(space)
    assert isinstance(flat, spaces.Box)
    return spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)


def _flat(value: Any, space: spaces.Space, flat: spaces.Space) -> Any:
    if isinstance(space, spaces.Dict):
        assert isinstance(flat, spaces.Dict) and isinstance(value, Mapping)
        return {name: _flat(value[name], space[name], flat[name]) for name in flat.spaces}
    if space is flat:
        return value
    return np.asarray(spaces.flatten(space, value), np.float32)
