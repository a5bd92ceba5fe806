"""One seed for everything random, and work that must not disturb it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torchrl.checkpoint import GlobalRNGState


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and PyTorch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Runs its block from ``seed`` and leaves every global random state as it was.

    Validation and evaluation draw numbers; how often they are done must not change training.

    Examples:
        >>> import torch
        >>> from torchrl_td.random_state import own_randomness
        >>> before = torch.random.get_rng_state()
        >>> with own_randomness(1):
        ...     _ = torch.rand(3)
        >>> bool((torch.random.get_rng_state() == before).all())
        True
    """
    state = GlobalRNGState()
    before = state.state_dict()
    seed_everything(seed)
    try:
        yield
    finally:
        state.load_state_dict(before)
