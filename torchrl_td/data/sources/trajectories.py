"""Steps from mappings of arrays: the Decision Transformer's list of them, or D4RL's single one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase

from torchrl_td.data.choices import one_hot_choices
from torchrl_td.data.keys import Key
from torchrl_td.data.source import Steps
from torchrl_td.data.transitions import as_flags, flat_entries, join, native
from torchrl_td.errors import InputError, first_line

# What each array is called, here and elsewhere; the first is what messages say.
_NAMES = {
    "observations": ("observations", "obs", "states"),
    "next_observations": ("next_observations", "next_obs", "next_states"),
    "actions": ("actions", "acts"),
    "rewards": ("rewards", "rews"),
    "terminals": ("terminals", "terminations", "terminated", "dones"),
    "timeouts": ("timeouts", "truncations", "truncated"),
}


def steps_from_trajectories(
    trajectories: Sequence[Mapping[str, Any]], name: str, keys: Sequence[str | Key] | None = None
) -> Steps:
    """The steps of trajectories, each of which is whole.

    A trajectory has ``observations`` [T, O] or, with the state after the last step, [T + 1, O],
    or a mapping of such arrays; ``actions`` [T, A]; ``rewards`` [T]; and, where they are known,
    ``next_observations``, ``terminals`` and ``timeouts`` [T]. One whose last step is no terminal
    was truncated.

    Args:
        trajectories: one mapping of arrays, tensors or lists each.
        name: of the source, for messages.
        keys: entries of the observation to join; None for the documented order.

    Raises:
        InputError: an array is missing, of another length, or there is no trajectory.

    >>> import numpy as np
    >>> trajectory = {
    ...     "observations": np.zeros((3, 4)), "actions": np.zeros((3, 1)), "rewards": np.ones(3),
    ...     "terminals": np.array([0, 0, 1]),
    ... }
    >>> steps_from_trajectories([trajectory, trajectory], "mine").ends.tolist()
    [False, False, True, False, False, True]
    """
    if not trajectories:
        raise InputError(f"{name}: it holds no trajectories")
    parts = [_steps(t, f"{name}: trajectory {i}", keys) for i, t in enumerate(trajectories)]
    widths = {(p.observation.shape[1:], p.action.shape[1:]) for p in parts}
    if len(widths) > 1:
        raise InputError(f"{name}: the observations or actions of its trajectories differ in size")
    actions = one_hot_choices(torch.cat([p.action for p in parts]), name, "actions")
    steps = Steps(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
    return steps._replace(action=actions)


def steps_of_flat(data: Mapping[str, Any], name: str) -> TensorDict:
    """D4RL's form in TorchRL's: arrays of all steps, whose episodes end where flags say so.

    Args:
        data: ``observations`` [N, O], ``actions`` [N, A], ``rewards``, ``terminals`` and
            ``timeouts`` [N], and ``next_observations`` if they are known.
        name: of the source, for messages.

    Returns:
        The steps [N].

    Raises:
        InputError: an array is missing or of another length.

    >>> import numpy as np
    >>> data = {name: np.zeros((4, 1)) for name in ("observations", "actions")}
    >>> flags = {"terminals": np.array([0, 0, 0, 1]), "timeouts": np.array([0, 1, 0, 0])}
    >>> steps_of_flat({**data, "rewards": np.ones(4), **flags}, "mine")["next", "done"].flatten()
    tensor([False,  True, False,  True])
    """
    found = _found(data, name, [key for key in _NAMES if key != "next_observations"])
    flags = _flags(data, found, name)
    arrays = {key: _tensor(value, name, key) for key, value in found.items() if value is not None}
    count = len(arrays["actions"])
    for key, value in arrays.items():
        if len(value) != count:
            raise InputError(f"{name}: {key} has {len(value)} rows where there are {count} actions")
    terminated, truncated = (flags[key].reshape(-1, 1) for key in ("terminals", "timeouts"))
    following = {"reward": arrays["rewards"].reshape(-1, 1)}
    following |= {"terminated": terminated, "truncated": truncated, "done": terminated | truncated}
    if "next_observations" in arrays:
        following["observation"] = arrays["next_observations"]
    steps = {"observation": arrays["observations"], "action": arrays["actions"]}
    return TensorDict({**steps, "next": following}, batch_size=[count])


def _found(data: Mapping[str, Any], name: str, needed: Sequence[str]) -> dict[str, Any]:
    """The arrays by our names; None for one that is not there and is not needed."""
    found = {
        key: next((data[n] for n in names if n in data), None) for key, names in _NAMES.items()
    }
    for key in needed:
        if found[key] is None:
            raise InputError(
                f"{name} has no {key!r}, only {', '.join(map(str, data)) or 'nothing'}"
            )
    return found


def _flags(data: Mapping[str, Any], found: Mapping[str, Any], name: str) -> dict[str, torch.Tensor]:
    """The flags that there are, [N] each."""
    flags = {
        key: as_flags(_tensor(found[key], name, key), name, key)
        for key in ("terminals", "timeouts")
        if found[key] is not None
    }
    *said, either = _NAMES["terminals"]  # the last is true at ends of either kind, as old Gym's
    if len(flags) == 2 and either in data and not any(key in data for key in said):
        terminals, timeouts = flags.values()
        if terminals.shape == timeouts.shape:
            flags["terminals"] = terminals & ~timeouts
    return flags


def _steps(trajectory: Any, name: str, keys: Sequence[str | Key] | None) -> Steps:
    """One trajectory's."""
    if not isinstance(trajectory, Mapping):
        raise InputError(f"{name} is a {type(trajectory).__name__}; give mappings of arrays")
    if isinstance(trajectory, TensorDictBase):
        raise InputError(f"{name} is a {type(trajectory).__name__}; give one of all, by torch.cat")
    found = _found(trajectory, name, ["observations", "actions", "rewards"])
    action, reward = (_tensor(found[key], name, key) for key in ("actions", "rewards"))
    count = len(action)
    if not count or reward.numel() != len(reward):
        raise InputError(
            f"{name}: actions and rewards have shapes {list(action.shape)} and "
            f"{list(reward.shape)}; a step has one reward, and a trajectory a step"
        )
    observation = _observation(found["observations"], keys, name, "observations")
    following = observation[1:]
    if found["next_observations"] is not None:
        following = _observation(found["next_observations"], keys, name, "next_observations")
    elif len(observation) == count:  # the last one's successor is not known
        following = torch.cat([following, observation[-1:]])
    observation = observation[: count if len(observation) == count + 1 else None]
    lengths = {"observations": observation, "next_observations": following, "rewards": reward}
    for key, value in lengths.items():
        if len(value) != count:
            raise InputError(f"{name}: {key} has {len(value)} rows where there are {count} actions")
    terminated = torch.zeros(count, dtype=torch.bool)
    for key, flags in _flags(trajectory, found, name).items():
        if len(flags) != count or flags[:-1].any():
            raise InputError(
                f"{name}: {key} mark another step than the last of {count}; where one mapping "
                f"holds several episodes, as D4RL's does, give the mapping itself, in no list"
            )
        terminated = flags if key == "terminals" else terminated
    ends = torch.zeros(count, dtype=torch.bool)
    ends[-1] = True
    action = action.reshape(count, -1) if action.ndim > 1 else action
    return Steps(
        observation, action, following, reward.reshape(count), terminated, ends & ~terminated, ends
    )


def _observation(
    value: Any, keys: Sequence[str | Key] | None, name: str, called: str
) -> torch.Tensor:
    entries = {path: _tensor(entry, name, called) for path, entry in flat_entries(value).items()}
    joined = torch.as_tensor(join(entries, keys, name, called))
    return joined.reshape(len(joined), -1)


def _tensor(value: Any, name: str, called: str) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    try:
        return torch.as_tensor(np.ascontiguousarray(native(np.asarray(value))))
    except (TypeError, ValueError, RuntimeError) as error:  # of objects, text, rows that differ
        raise InputError(
            f"{name}: {called} is no array of numbers ({first_line(error)}); convert it, as "
            f"numpy.array(..., dtype='float32') does"
        ) from None
