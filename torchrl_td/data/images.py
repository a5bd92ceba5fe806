"""Images among observations, which nothing here encodes."""

from __future__ import annotations

from collections.abc import Sequence

from torchrl_td.errors import InputError

_IMAGE = 32  # pixels a side from which on an array is taken for an image


def is_image(shape: Sequence[int] | None) -> bool:
    """Whether two sides of a step's observation are of 32 numbers and more."""
    return sum(side >= _IMAGE for side in shape or ()) >= 2


def check_no_image(shape: Sequence[int], name: str) -> None:
    """Refuse an observation that is an image, which no part here could read.

    Args:
        shape: of one step's.
        name: what the message calls it.

    Raises:
        InputError: two of its sides are of 32 numbers and more.

    >>> check_no_image((3, 64, 64), "minari:my/atari-v0: observations")
    Traceback (most recent call last):
    torchrl_td.errors.InputError: minari:my/atari-v0: observations is an image of shape [3, 64, 64]:
    plans are made of vectors, and there is no encoder that makes one of it; encode the images
    first, or name other entries in observation_keys
    """
    if is_image(shape):
        raise InputError(
            f"{name} is an image of shape {list(shape)}: plans are made of vectors, and there is "
            "no encoder that makes one of it; encode the images first, or name other entries in "
            "observation_keys"
        )
