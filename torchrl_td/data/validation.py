"""Checks of data before anything is trained on it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl import torchrl_logger

from torchrl_td.data.choices import are_choices, choices_of
from torchrl_td.errors import InputError

_BOUND_TOLERANCE = 1e-3  # of the range: float32 rounding of recorded actions
_ROUNDING = 1e-3  # of the standard deviation: what storing a state twice may change
_LOST = 0.1  # of the standard deviation: an error of rounding that is worth a word
_JITTER = 1e-11  # of the magnitude: a change as small is itself rounding, of a simulation
_SAMPLED = 1 << 16  # steps looked at of larger data
_JUMP = 30.0  # times the usual step: an end that is not marked, or marked too late
_MANY = 0.05  # of the episodes
LARGEST = 1e18
"""Of an observation or action: the square of a larger number is out of float32's range."""

_NOISE = 0.2  # of the standard deviation: what an environment may add to what it shows


class NotFiniteError(InputError):
    """The data holds NaN or Inf: it can be described, and not trained on."""


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, the same one only once a process: a source is opened several times."""
    torchrl_logger.warning(message)


def check_achieved_goal(entries: Mapping[tuple[str, ...], Any], name: str) -> None:
    """Warn where the default order leaves out an achieved goal that the observation does not hold.

    :func:`torchrl_td.data.keys.observation_keys` drops ``achieved_goal`` of a goal task. In
    AntMaze it is the ant's place, which its observation lacks.

    Args:
        entries: some steps [n, ...] by path.
        name: of the source, for the message.
    """
    parts: dict[str, list[Tensor]] = {}
    for path, value in entries.items():
        column = torch.as_tensor(value).reshape(len(value), -1).float()
        parts.setdefault(path[0], []).append(column)
    if not {"observation", "achieved_goal", "desired_goal"} <= set(parts):
        return
    state, goal = (torch.cat(parts[key], -1) for key in ("observation", "achieved_goal"))
    # Kitchen's observation holds it with some noise.
    near = _NOISE * goal.std(0, correction=0) + 1e-3  # [G]
    if not all(((state - goal[:, [d]]).abs() <= near[d]).all(0).any() for d in range(len(near))):
        warn_once(
            f"{name}: achieved_goal is left out, and the observation does not hold it; if the task "
            "needs it, set observation_keys to [achieved_goal, observation, desired_goal]"
        )


def check_finite(
    value: Tensor,
    name: str,
    key: str,
    row: int,
    episode: Tensor,
    largest: float | None = None,
) -> None:
    """Refuse NaN and Inf, naming the first row of the source that holds one.

    Args:
        value: [n, ...].
        name: of the source, for the message.
        key: of the value, for the message.
        row: how many steps of the source came before.
        episode: [n], number of each step's episode.
        largest: what no number's magnitude may exceed, where there is such a limit.

    Raises:
        NotFiniteError: a number is NaN or infinite, also where float32 cannot hold it, or too
            large.

    >>> action = torch.tensor([[0.5], [0.1], [torch.nan]])
    >>> check_finite(action, "mine.hdf5", "actions", 100, torch.tensor([7, 7, 8]))
    Traceback (most recent call last):
    torchrl_td.data.validation.NotFiniteError: mine.hdf5: actions holds NaN or Inf, first in row
    102 (episode 8); drop or mend that episode
    """
    low, high = torch.aminmax(value) if value.numel() else (torch.zeros(()),) * 2
    bound = torch.finfo(torch.float32).max if largest is None else largest
    if -bound <= low and high <= bound:  # neither where a number is NaN
        return
    wrong = ~torch.isfinite(value).reshape(len(value), -1).all(-1)
    what, remedy = "holds NaN or Inf", "drop or mend that episode"
    if not wrong.any():
        wrong = (value.abs() > bound).reshape(len(value), -1).any(-1)
        what, remedy = f"exceeds {bound:g}", "divide it by a constant, or drop that episode"
    first = int(torch.nonzero(wrong)[0])
    raise NotFiniteError(
        f"{name}: {key} {what}, first in row {row + first} (episode {int(episode[first])}); "
        f"{remedy}"
    )


def check_precision(value: Tensor, name: str, key: str) -> None:
    """Warn where float32 cannot tell the values of a dimension apart.

    Its 24 bits hold 1.7e9 to the nearest 128: of a clock in seconds since 1970 nothing is left.

    Args:
        value: [n, ...] of whatever type.
        name: of the source, for the message.
        key: of the value, for the message.
    """
    if value.dtype not in (torch.float64, torch.int64, torch.int32) or not len(value):
        return
    exact = value.reshape(len(value), -1).double()  # [n, D]
    error = (exact - exact.float().double()).abs().amax(0)  # [D]
    spread, largest = exact.std(0, correction=0), exact.abs().amax(0)
    lost = (error > _LOST * spread) & (spread > _JITTER * largest)
    if lost.any():
        dimensions = ", ".join(map(str, torch.nonzero(lost).flatten().tolist()))
        warn_once(
            f"{name}: {key.removeprefix('next/')} loses its digits in float32, in dimension "
            f"{dimensions}: it changes little for how far it is from 0; subtract the offset, "
            "count a clock from the episode's start, or leave it out"
        )


def check_not_zero(seen: Mapping[str, bool], name: str) -> None:
    """Refuse a source whose observations or actions are zero throughout.

    Args:
        seen: whether anything but zero was found, by key.
        name: of the source, for the message.

    Raises:
        InputError: nothing was found.

    >>> check_not_zero({"observation": True, "action": False}, "minari:mine-v0")
    Traceback (most recent call last):
    torchrl_td.errors.InputError: minari:mine-v0: action is all zero, so it was not read or not
    recorded; load or record it again
    """
    for key in ("observation", "action"):
        if not seen[key]:
            raise InputError(
                f"{name}: {key} is all zero, so it was not read or not recorded; "
                "load or record it again"
            )


def broken_successors(episodes: TensorDictBase) -> str | None:
    """What to say where a step's next observation is not the observation of the step after it.

    Inside an episode they are the same state. Steps out of order, steps left out, an end that
    is not marked and rewards summed over several steps (n-step returns) show here. Of large data
    65,536 steps are looked at.

    Args:
        episodes: in the layout of :func:`torchrl_td.data.load_episodes`.

    Returns:
        A sentence, or None where nothing is wrong.

    >>> from tensordict import TensorDict
    >>> state = torch.arange(6.0).unsqueeze(-1)
    >>> data = TensorDict(observation=state, episode=torch.tensor([0, 0, 0, 0, 1, 1]),
    ...     next=TensorDict(observation=state + 1, batch_size=[6]), batch_size=[6])
    >>> broken_successors(data)
    >>> broken_successors(data[[0, 1, 3, 4, 5]])
    'next/observation is not the observation of the step after it in 33.3 % of the steps, first in
    row 1 (episode 0): steps are out of order or left out, or an end is not marked; sort the steps
    by episode and time, and mark where episodes end'
    """
    number = episodes["episode"].reshape(-1)  # [N]
    rows = torch.arange(len(number) - 1)
    if len(rows) > _SAMPLED:  # drawn and not evenly spaced, which might meet the ends alone
        drawn = torch.randint(len(rows), (_SAMPLED,), generator=torch.Generator().manual_seed(0))
        rows = drawn.unique()
    rows = rows[number[rows] == number[rows + 1]]
    if not len(rows):
        return None
    after = episodes["observation"][rows + 1]  # [n, O]
    difference = (episodes["next", "observation"][rows] - after).abs()
    near = _ROUNDING * after.std(0, correction=0) + 1e-5 * after.abs()
    wrong = (difference > near).any(-1)  # not where either is NaN, which is told apart
    if not wrong.any():
        return None
    row = int(rows[wrong][0])
    return (
        "next/observation is not the observation of the step after it in "
        f"{100 * float(wrong.float().mean()):.3g} % of the steps, first in row {row} (episode "
        f"{int(number[row])}): steps are out of order or left out, or an end is not marked; "
        "sort the steps by episode and time, and mark where episodes end"
    )


def unlikely_ends(episodes: TensorDictBase) -> list[str]:
    """What to say where episodes seem to end elsewhere than the data marks.

    A step within an episode that goes far beyond the usual one leads to another episode's start:
    the end was marked late, or not at all. Of large data 65,536 steps are looked at.

    Args:
        episodes: in the layout of :func:`torchrl_td.data.load_episodes`.

    >>> from tensordict import TensorDict
    >>> state = torch.cat([torch.arange(50.0), torch.arange(50.0) + 900]).unsqueeze(-1)
    >>> data = TensorDict(observation=state[:-1], episode=torch.zeros(99, dtype=torch.int64),
    ...     next=TensorDict(observation=state[1:], batch_size=[99]), batch_size=[99])
    >>> unlikely_ends(data)
    ['1 of 99 steps within episodes go over 30 times as far as the usual one, first in row 49
    (episode 0): an end is not marked, or marked late; check the timeouts']
    """
    found = []
    number = episodes["episode"].reshape(-1)  # [N]
    lengths = torch.bincount(number)
    short = int((lengths == 1).sum())
    if short > max(1, len(lengths) // 2):
        found.append(
            f"{short} of {len(lengths)} episodes have a single step: done, or the number of the "
            "episode, may not be what marks their ends"
        )
    rows = torch.arange(len(number))
    if len(rows) > _SAMPLED:
        rows = torch.randint(len(rows), (_SAMPLED,), generator=torch.Generator().manual_seed(0))
        rows = rows.unique()
    before = episodes["observation"][rows]
    spread = before.std(0, correction=0).clamp_min(1e-12)
    step = ((episodes["next", "observation"][rows] - before) / spread).norm(dim=-1)  # [n]
    usual = step[step > 0].median() if (step > 0).any() else step.new_tensor(math.inf)
    far = torch.nonzero((step > _JUMP * usual) & (step > 1)).flatten()  # not where it is NaN
    # A bounce now and then is no end; a mark that is wrong is wrong in many episodes.
    everywhere = len(far) * len(number) / max(1, len(rows)) > _MANY * len(lengths)
    if everywhere and len(far) < len(rows) // 20:
        row = int(rows[far[0]])
        found.append(
            f"{len(far)} of {len(rows)} steps within episodes go over {_JUMP:g} times as far as "
            f"the usual one, first in row {row} (episode {int(number[row])}): an end is not "
            "marked, or marked late; check the timeouts"
        )
    return found


def check_matches_env(episodes: TensorDictBase, env: Any, *, name: str = "dataset") -> None:
    """Refuse an environment that the episodes do not fit.

    Args:
        episodes: in the layout of :func:`torchrl_td.data.load_episodes`.
        env: a TorchRL environment whose ``observation`` is one vector, as the
            planner is to see it.
        name: of the source, for the message.

    Raises:
        InputError: the observation or action differs in size, or recorded actions lie
            outside the environment's bounds.

    >>> from tensordict import TensorDict
    >>> from torchrl.envs import GymEnv
    >>> env = GymEnv("Pendulum-v1")
    >>> data = TensorDict(observation=torch.zeros(4, 3), action=torch.zeros(4, 1), batch_size=[4])
    >>> check_matches_env(data, env)
    >>> check_matches_env(data.set("action", torch.full((4, 1), 9.0)), env)
    Traceback (most recent call last):
    torchrl_td.errors.InputError: dataset: action lies outside the environment's bounds in 100 % of
    the steps, first in row 0; rescale or clip the data's actions
    """
    specs = {
        "observation": env.observation_spec_unbatched["observation"],
        "action": env.action_spec_unbatched,
    }
    for key, spec in specs.items():
        count = choices_of(spec) if key == "action" else None
        have, want = episodes[key].shape[-1], count or spec.shape[-1]
        if key == "action" and (count is not None) != are_choices(episodes):
            kinds = ("numbers", "choices")
            raise InputError(
                f"{name}: action is {have} {kinds[are_choices(episodes)]}, the environment's "
                f"{want} {kinds[count is not None]}; choose the environment the data was recorded "
                "in (task); whole numbers in one column are taken for choices, unless they are "
                "converted to float32"
            )
        if have != want:
            raise InputError(
                f"{name}: {key} has {have} numbers, the environment's {want}; choose the "
                "environment the data was recorded in (task), or task.observation_keys; Discrete "
                "entries are vectors with a 1 at their value"
            )
    space = getattr(specs["action"], "space", None)
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None:
        return
    action = episodes["action"]
    low, high = low.to(action), high.to(action)
    slack = _BOUND_TOLERANCE * torch.nan_to_num(high - low, posinf=0.0).clamp_min(1e-3)
    outside = ((action < low - slack) | (action > high + slack)).any(-1)
    if outside.any():
        raise InputError(
            f"{name}: action lies outside the environment's bounds in "
            f"{100 * outside.float().mean().item():.3g} % of the steps, first in row "
            f"{int(torch.nonzero(outside)[0])}; rescale or clip the data's actions"
        )
