"""What is asked of data before anything is trained on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from torchrl_td.errors import TDError

_BOUND_TOLERANCE = 1e-3  # of the range: float32 rounding of recorded actions


class NotFiniteError(TDError):
    """The data holds NaN or Inf: it can be described, and not trained on."""


def check_finite(value: Tensor, name: str, key: str, row: int, episode: Tensor) -> None:
    """Refuse NaN and Inf, naming the first row of the source that holds one.

    Args:
        value: [n, ...].
        name: of the source, for the message.
        key: of the value, for the message.
        row: how many steps of the source came before.
        episode: [n], number of each step's episode.

    Raises:
        NotFiniteError: a number is NaN or infinite, also where float32 cannot hold it.
    """
    if torch.isfinite(value.sum()):
        return
    finite = torch.isfinite(value).reshape(len(value), -1).all(-1)
    if finite.all():  # only the sum was out of range
        return
    first = int(torch.nonzero(~finite)[0])
    raise NotFiniteError(
        f"{name}: {key} holds NaN or Inf, first in row {row + first} (episode "
        f"{int(episode[first])}); drop or mend that episode"
    )


def check_not_zero(seen: Mapping[str, bool], name: str) -> None:
    """Refuse a source whose observations or actions are zero throughout.

    Args:
        seen: whether anything but zero was found, by key.
        name: of the source, for the message.

    Raises:
        TDError: nothing was found.
    """
    for key in ("observation", "action"):
        if not seen[key]:
            raise TDError(
                f"{name}: {key} is all zero, so it was not read or not recorded; "
                "load or record it again"
            )


def check_matches_env(episodes: TensorDictBase, env: Any, *, name: str = "dataset") -> None:
    """Refuse an environment that the episodes do not fit.

    Args:
        episodes: in the layout of :func:`torchrl_td.data.load_episodes`.
        env: a TorchRL environment whose ``observation`` is one vector, as the
            planner is to see it.
        name: of the source, for the message.

    Raises:
        TDError: the observation or action differs in size, or recorded actions lie
            outside the environment's bounds.
    """
    specs = {
        "observation": env.observation_spec_unbatched["observation"],
        "action": env.action_spec_unbatched,
    }
    for key, spec in specs.items():
        have, want = episodes[key].shape[-1], spec.shape[-1]
        if have != want:
            raise TDError(
                f"{name}: {key} has {have} numbers, the environment's {want}; choose the "
                "environment the data was recorded in, or set the observation keys"
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
        raise TDError(
            f"{name}: action lies outside the environment's bounds in "
            f"{100 * outside.float().mean().item():.3g} % of the steps, first in row "
            f"{int(torch.nonzero(outside)[0])}; rescale or clip the data's actions"
        )
