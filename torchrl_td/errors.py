"""The one exception a user's mistake raises, and the checks of plain arguments that raise it."""

from __future__ import annotations

import math
from numbers import Integral

import torch


class InputError(ValueError):
    """A mistake that the user can mend: bad data, a wrong setting, a missing file.

    The message is one line that names the cause and the remedy. Command line
    programs print it without a traceback.
    """


def first_line(error: BaseException) -> str:
    """The first line of an exception's message that says something, or its type's name.

    Examples:
        >>> from torchrl_td.errors import first_line
        >>> first_line(RuntimeError("\\nno memory\\nat 0x7f")), first_line(KeyError())
        ('no memory', 'KeyError')
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def check_whole(name: str, value: int, low: int, high: int | None = None, why: str = "") -> None:
    """Checks a count.

    Args:
        name: what the argument is called.
        value: what was given.
        low: the smallest allowed.
        high: the largest allowed, if there is one.
        why: what that is.

    Raises:
        InputError: if it is no whole number or out of its range.

    >>> check_whole("replan_every", 8, 1, 7)
    Traceback (most recent call last):
    torchrl_td.errors.InputError: replan_every must lie in 1..7, got 8
    >>> check_whole("refresh_every", 2.5, 1)
    Traceback (most recent call last):
    torchrl_td.errors.InputError: refresh_every must be a whole number, got 2.5
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{name} must be a whole number, got {value!r}")
    if value < low or (high is not None and value > high):
        allowed = f"be at least {low}" if high is None else f"lie in {low}..{high}"
        raise InputError(f"{name} must {allowed}{why and f' ({why})'}, got {value}")


def check_number(
    name: str, value: float | None, *, negative: bool = True, endless: bool = False
) -> None:
    """Checks a factor or a distance.

    Args:
        name: what the argument is called.
        value: what was given; ``None`` is not checked.
        negative: whether it may be below 0.
        endless: whether it may be infinite.

    Raises:
        InputError: if it is not a number or may not be of that size.

    >>> check_number("guidance_scale", float("nan"))
    Traceback (most recent call last):
    torchrl_td.errors.InputError: guidance_scale must be a finite number, got nan
    """
    if value is None:
        return
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError, RuntimeError):  # of what holds none or several
        number = math.nan
    if math.isnan(number) or (math.isinf(number) and not endless):
        raise InputError(f"{name} must be a {'' if endless else 'finite '}number, got {value!r}")
    if number < 0 and not negative:
        raise InputError(f"{name} must not be negative, got {value}")


def check_device(device: torch.device | str, *, meta: bool = False) -> None:
    """Checks that there is such a device.

    Args:
        device: as PyTorch names it.
        meta: whether it may be the one of that name.

    Raises:
        InputError: it is unknown, not there, or holds no numbers.

    >>> check_device("cpu")
    """
    try:
        if torch.empty(0, device=device).is_meta and not meta:
            raise RuntimeError("it holds no numbers")
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise InputError(f"device={device!r} cannot be used: {reason}; try device='cpu'") from None
