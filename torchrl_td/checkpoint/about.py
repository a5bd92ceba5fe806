"""Checks of a checkpoint's description of itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torchrl.data import Bounded, Categorical, OneHot, TensorSpec

from torchrl_td.config import stored_config
from torchrl_td.data.choices import choices_of

_LARGEST_DIM = 1_000_000  # numbers of an observation
# What later reading takes for granted of the dataset, by type.
_DATASET = {
    "source": str,
    "hash": str,
    "transitions": int,
    "return_mean": (int, float),
    "return_best": (int, float),
    "score_mean": (int, float),
    "score_best": (int, float),
}

# What choices may be of.
_DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float32", "float64")


def check_about(about: Any) -> dict[str, Any]:
    """Checks the types, sizes and settings of an ``about``, which is returned as it is.

    Raises:
        ValueError: at the first thing wrong, in one line.

    Examples:
        >>> from torchrl_td.checkpoint.about import check_about
        >>> check_about({"step": -1})
        Traceback (most recent call last):
        ...
        ValueError: its 'step' is -1, not a whole number of 0 or more
    """
    about = _typed(about, "about", dict)
    for key, low in (("step", 0), ("observation_dim", 1)):
        value = about.get(key)
        if type(value) is not int or value < low:
            raise ValueError(f"its {key!r} is {_short(value)}, not a whole number of {low} or more")
    if about["observation_dim"] > _LARGEST_DIM:
        raise ValueError(f"its 'observation_dim' is above {_LARGEST_DIM}")
    _check_bounds(about.get("action_low"), about.get("action_high"))
    if about.get("action_choices", "index") not in ("index", "one_hot"):
        raise ValueError(f"its 'action_choices' is {_short(about['action_choices'])}")
    if about.get("action_dtype", "int64") not in _DTYPES:
        raise ValueError(f"its 'action_dtype' is {_short(about['action_dtype'])}")
    dataset = _typed(about.get("dataset"), "dataset", dict)
    for key, kind in _DATASET.items():
        _typed(dataset.get(key), f"dataset.{key}", kind)
    _typed(about.get("init_from", {}), "init_from", dict)
    stored_config(_typed(about.get("config"), "config", dict))
    return about


def action_spec(about: Mapping[str, Any]) -> TensorSpec:
    """The spec of one environment's action that a checkpoint was trained for.

    Args:
        about: as checked.
    """
    low, form = torch.tensor(about["action_low"]), about.get("action_choices")
    if form is not None:
        # One without a dtype is older; this is TorchRL's for an environment of Gymnasium.
        kind = getattr(torch, about.get("action_dtype", "int64"))
        return (OneHot if form == "one_hot" else Categorical)(len(low), dtype=kind)
    return Bounded(low, torch.tensor(about["action_high"]))


def described_action(spec: TensorSpec) -> dict[str, Any]:
    """What an ``about`` says of one environment's action."""
    count = choices_of(spec)
    if count is None:
        return {"action_low": spec.space.low.tolist(), "action_high": spec.space.high.tolist()}
    form = "one_hot" if isinstance(spec, OneHot) else "index"
    return {
        "action_low": [0.0] * count,
        "action_high": [1.0] * count,
        "action_choices": form,
        "action_dtype": str(spec.dtype).removeprefix("torch."),  # indexing by bool is by a mask
    }


def counted_actions(described: Mapping[str, Any]) -> str:
    """How many numbers, or choices, an action is of, in words.

    Args:
        described: an ``about``, or what :func:`described_action` says.

    >>> counted_actions({"action_low": [-1.0, -1.0]})
    '2 numbers'
    """
    kind = "numbers" if described.get("action_choices") is None else "choices"
    return f"{len(described['action_low'])} {kind}"


def _check_bounds(low: Any, high: Any) -> None:
    low, high = _typed(low, "action_low", list), _typed(high, "action_high", list)
    if not low or len(low) != len(high):
        raise ValueError("its 'action_low' and 'action_high' are not of one length")
    for bounds in zip(low, high, strict=True):
        if any(type(bound) not in (int, float) or math.isnan(bound) for bound in bounds):
            raise ValueError(f"its action bounds hold {_short(bounds)}, not numbers")
        if bounds[0] > bounds[1]:
            raise ValueError(f"its action bounds {_short(bounds)} are in the wrong order")


def _typed(value: Any, name: str, kind: Any) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"its {name!r} is {_short(value)}")
    return value


def _short(value: Any) -> str:
    if value is None:
        return "missing"
    text = (
        ascii(value) if isinstance(value, (str, int, float, tuple)) else f"a {type(value).__name__}"
    )
    return text if len(text) < 40 else f"{text[:40]}..."
