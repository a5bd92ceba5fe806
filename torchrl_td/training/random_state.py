"""One seed for everything random, and work that must not disturb it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torchrl.checkpoint import GlobalRNGState

_HOST = ("python", "numpy", "torch_cpu")  # of GlobalRNGState's, those that every machine has


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and PyTorch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class RandomState:
    """The random states of Python, NumPy, PyTorch's CPU and one device, for a checkpoint.

    Of several GPUs only the one a process computes on has drawn what training drew, so its state
    is all that is kept. Whoever loads it gives it to a GPU of its own: of several processes each
    goes on with the same noise.

    Args:
        device: where this process computes.

    Examples:
        >>> import torch
        >>> from torchrl_td.training.random_state import RandomState
        >>> kept = RandomState(torch.device("cpu"))
        >>> state, drawn = kept.state_dict(), torch.rand(3)
        >>> kept.load_state_dict(state)
        >>> bool((torch.rand(3) == drawn).all())
        True
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def state_dict(self) -> dict[str, Any]:
        """The states as they are now."""
        every = GlobalRNGState().state_dict()
        state = {name: every[name] for name in _HOST}
        if self._device.type == "cuda":
            state["device"] = torch.cuda.get_rng_state(self._device)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores them; on another kind of device than the saving one's, all but its own."""
        GlobalRNGState().load_state_dict({name: state[name] for name in _HOST})
        if self._device.type == "cuda" and "device" in state:
            torch.cuda.set_rng_state(state["device"].cpu(), self._device)


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Runs its block from ``seed`` and leaves every global random state as it was.

    Validation and evaluation draw numbers; how often they are done must not change training.

    Examples:
        >>> import torch
        >>> from torchrl_td.training.random_state import own_randomness
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
