"""Which parts of an observation there are, and the order in which they are joined.

A planner sees one vector. Where an environment or a dataset gives a Dict, this
is the one place that says how the vector is made of it, so that both sides agree:

* a goal task (it has ``observation`` and ``desired_goal``): ``observation`` first,
  then the entries of ``desired_goal``, nested keys sorted. ``achieved_goal`` is
  dropped: what is reached can be read from the observation. AntMaze's observation
  alone lacks it, the ant's place; names and sizes do not tell this, so that neither
  side can choose otherwise by itself. Loading such data without ``observation_keys``
  warns, and ``task=antmaze/...`` names the entries, in the order achieved_goal,
  observation, desired_goal, for the data and the environment.
* any other Dict: all its entries, sorted by key, nested ones in their place.

An entry ``state`` beside no ``observation`` stands where that would, for TorchRL's ``GymEnv`` calls
it so.

PointMaze thus is (x, y, vx, vy, goal x, goal y).
"""

from __future__ import annotations

from collections.abc import Iterable, KeysView, Mapping
from typing import Any

from torchrl_td.errors import InputError

Key = tuple[str, ...]

_ACHIEVED, _DESIRED, _OBSERVATION = "achieved_goal", "desired_goal", "observation"
_STATE = "state"


def observation_keys(source: Any) -> list[str | Key]:
    """The entries of an observation that are joined to one vector, in order.

    Args:
        source: a Gymnasium space, a nested mapping (such as a TorchRL ``Composite``
            or a TensorDict of observations), or the keys themselves, nested ones as
            tuples. What is no Dict has the one key ``observation``.

    Returns:
        Keys as TorchRL's ``GymEnv`` names them, ready for ``CatTensors(in_keys=...)``.

    Raises:
        InputError: there is no entry at all.

    >>> observation_keys(["achieved_goal", "desired_goal", "observation"])
    ['observation', 'desired_goal']
    >>> observation_keys([("desired_goal", "kettle"), "observation", ("desired_goal", "hinge")])
    ['observation', ('desired_goal', 'hinge'), ('desired_goal', 'kettle')]
    >>> observation_keys(["velocity", "position"])
    ['position', 'velocity']
    """
    found = set(_paths(source))
    if not found:
        raise InputError("the observation has no entries: name them with observation_keys=")
    called = {torchrl_key(path, found): path for path in found}
    paths = sorted(called)
    heads = {path[0] for path in paths}
    if {_OBSERVATION, _DESIRED} <= heads:
        paths = [p for p in paths if p[0] == _OBSERVATION] + [
            p for p in paths if p[0] not in (_OBSERVATION, _ACHIEVED)
        ]
    own = [called[path] for path in paths]
    return [path[0] if len(path) == 1 else path for path in own]


def torchrl_key(path: Key, paths: Iterable[Key]) -> Key:
    """What TorchRL's ``GymEnv`` calls an entry of an observation that has these.

    >>> torchrl_key(("state",), [("state",), ("goal",)])
    ('observation',)
    """
    if path[0] == _STATE and not any(other[0] == _OBSERVATION for other in paths):
        return (_OBSERVATION, *path[1:])
    return path


def named_keys(names: Iterable[str] | None) -> list[str | Key] | None:
    """The keys that a setting names, nested ones with a slash.

    >>> named_keys(["goal", "robot/position"])
    ['goal', ('robot', 'position')]
    """
    if names is None:
        return None
    return [tuple(name.split("/")) if "/" in name else name for name in names]


def _paths(source: Any) -> Iterable[Key]:
    """Every leaf of ``source`` as a tuple of names."""
    spaces = getattr(source, "spaces", source)
    if isinstance(spaces, Mapping) or (hasattr(spaces, "items") and hasattr(spaces, "keys")):
        for name, entry in spaces.items():
            if hasattr(entry, "spaces") or isinstance(entry, Mapping) or _is_nested(entry):
                yield from ((name, *rest) for rest in _paths(entry))
            else:
                yield (name,)
    elif isinstance(source, (list, tuple, set, frozenset, KeysView)):
        for key in source:
            yield key if isinstance(key, tuple) else (key,)
    else:
        yield (_OBSERVATION,)


def _is_nested(entry: Any) -> bool:
    """Whether ``entry`` is a TensorDict or a Composite spec rather than a leaf."""
    return hasattr(entry, "items") and hasattr(entry, "keys")
