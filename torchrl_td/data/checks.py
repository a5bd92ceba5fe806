"""What is asked of data before anything is trained on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from tensordict import TensorDictBase

from torchrl_td.errors import TDError

_REQUIRED = ("observation", "action", ("next", "observation"), ("next", "reward"))
_BOUND_TOLERANCE = 1e-3  # of the range: float32 rounding of recorded actions


def leaves(data: TensorDictBase) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of ``data`` with their keys written as in ``next/reward``."""
    for key in data.keys(True, True):
        value = data.get(key)
        if isinstance(value, torch.Tensor):
            yield "/".join(key) if isinstance(key, tuple) else key, value


def check_leaves(raw: TensorDictBase, name: str) -> None:
    """Refuse raw data with missing keys, no steps, or entries that are not numbers.

    Raises:
        TDError: naming ``name``, the key and the remedy.
    """
    keys = set(raw.keys(True))
    for key in (*_REQUIRED, ("next", "terminated")):
        if key not in keys:
            written = "/".join(key) if isinstance(key, tuple) else key
            raise TDError(f"{name}: key {written!r} is missing; steps need TorchRL's TED keys")
    if raw.batch_size[0] == 0:
        raise TDError(f"{name}: it holds no steps; record or download it again")
    for key in ("action", ("next", "reward")):
        value = raw.get(key)
        if isinstance(value, TensorDictBase):
            raise TDError(f"{name}: {key!r} is a Dict; only one continuous action vector is taken")
        if not value.dtype.is_floating_point and key == "action":
            raise TDError(
                f"{name}: 'action' has dtype {value.dtype}; only continuous actions are planned "
                "for, so convert it to float or take a dataset with a Box action space"
            )


def check_episodes(episodes: TensorDictBase, name: str) -> None:
    """Refuse episodes with NaN or Inf, or that are all zero.

    Args:
        episodes: in the layout of :func:`torchrl_td.data.load_episodes`.
        name: of the source, for the message.

    Raises:
        TDError: naming ``name``, the key, the first row and the remedy.
    """
    for key, value in leaves(episodes):
        if value.dtype.is_floating_point and not torch.isfinite(value.sum()):
            finite = torch.isfinite(value).reshape(value.shape[0], -1).all(-1)
            if not finite.all():
                row = int(torch.nonzero(~finite)[0])
                raise TDError(
                    f"{name}: {key} holds NaN or Inf, first in row {row} (episode "
                    f"{int(episodes['episode'][row])}); drop or mend that episode"
                )
    for key in ("observation", "action"):
        if not episodes[key].any():
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
