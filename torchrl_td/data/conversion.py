"""Numbers of any type as float32, flags as bool, an observation's entries as one vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchrl_td.data.keys import Key
from torchrl_td.data.keys import observation_keys as ordered_keys
from torchrl_td.data.validation import check_precision
from torchrl_td.errors import InputError


def as_float(value: Any, name: str, key: str, *, continuous: bool = False) -> Tensor:
    """Numbers as float32; a warning says where that loses what they tell.

    Args:
        value: array or tensor.
        name: of the source, for messages.
        key: of the value, for messages.
        continuous: whether integers are refused as well, as of a discrete action.

    Raises:
        InputError: the values are no real numbers, or integers where ``continuous``.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind not in "fiub":
        raise InputError(
            f"{name}: {key} has dtype {value.dtype}, not numbers; convert it to float32"
        )
    value = torch.as_tensor(_native(value) if isinstance(value, np.ndarray) else value)
    if value.is_complex() or (continuous and not value.dtype.is_floating_point):
        kind = "continuous actions are" if continuous else "real numbers are"
        raise InputError(
            f"{name}: {key} has dtype {value.dtype}, but only {kind} planned with; "
            "convert it to float32 or take another dataset"
        )
    check_precision(value, name, key)
    return value.float()


def as_flags(value: Any, name: str, key: str) -> Tensor:
    """A yes or no a step as bool [n].

    Raises:
        InputError: there are several a step, or others than 0 and 1.
    """
    flags = torch.as_tensor(_native(value) if isinstance(value, np.ndarray) else value)
    if flags.numel() != len(flags) or not ((flags == 0) | (flags == 1)).all():
        raise InputError(f"{name}: {key} must be one 0 or 1 a step, and is not; mend it")
    return flags.reshape(-1).bool()


def _native(value: np.ndarray) -> np.ndarray:
    """Numbers of a type that PyTorch has: of this machine's byte order, signed, of 64 bits."""
    kind, size = value.dtype.kind, value.dtype.itemsize
    if kind == "u" and size > 1:
        return value.astype(np.int64 if size < 8 else np.float64)
    if kind == "f" and size > 8:
        return value.astype(np.float64)
    return value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))


def join(
    entries: Mapping[Key, Any], keys: Sequence[str | Key] | None, name: str, called: str
) -> Any:
    """Join the entries of an observation to one vector a step.

    Args:
        entries: arrays or tensors [n, ...] by path; what is no Dict is ``observation``.
        keys: which, in order; None for the documented order.
        name: of the source, for messages.
        called: what the source calls the observation, for messages.

    Returns:
        [n, O]; float32 where several entries were joined.

    Raises:
        InputError: an entry is missing or holds no numbers.
    """
    chosen = ordered_keys(list(entries)) if keys is None else list(keys)
    parts = []
    for key in chosen:
        path = key if isinstance(key, tuple) else (key,)
        if path not in entries:
            have = ", ".join("/".join(p) for p in sorted(entries))
            raise InputError(
                f"{name}: {called} has no entry {'/'.join(path)!r}; choose observation_keys "
                f"among {have}"
            )
        parts.append(entries[path])
    if len(parts) == 1:
        return parts[0]
    named = [f"{called}/{'/'.join(k) if isinstance(k, tuple) else k}" for k in chosen]
    flat = [
        as_float(value, name, key).reshape(len(value), -1)
        for key, value in zip(named, parts, strict=True)
    ]
    if len({len(value) for value in flat}) > 1:
        sizes = ", ".join(f"{k} {len(v)}" for k, v in zip(named, flat, strict=True))
        raise InputError(f"{name}: rows differ between {sizes}; every entry needs one row a step")
    return torch.cat(flat, -1)


def flat_entries(value: Any, path: Key = ()) -> dict[Key, Any]:
    """The leaves of nested mappings (or TensorDicts) by path; a leaf alone is ``observation``."""
    if isinstance(value, Mapping) or hasattr(value, "batch_size"):
        found: dict[Key, Any] = {}
        for key, entry in value.items():
            found.update(flat_entries(entry, (*path, key)))
        return found
    return {path or ("observation",): value}
