"""A training step as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_td.errors import InputError
from torchrl_td.inference.cuda_graphs import GraphReplay
from torchrl_td.training.distributed import World

Outputs = dict[str, Tensor]


class CudaGraphStep:
    """Calls a function of a batch; after a few calls, by replaying one CUDA graph.

    Args:
        function: what a step does, on a batch of always the same shapes; see
            :class:`~torchrl_td.inference.cuda_graphs.GraphReplay` for what it may do.
        device: the CUDA device.
    """

    def __init__(self, function: Callable[[TensorDictBase], Outputs], device: torch.device) -> None:
        self._function = function
        self._replay = GraphReplay(self._on_tensors, device)
        self._batch: TensorDictBase | None = None  # the first; those that follow are as it was
        self._keys: list[NestedKey] = []

    def __call__(self, batch: TensorDictBase) -> Outputs:
        """A step; what it returns is overwritten by the next one."""
        if self._batch is None:
            self._batch = batch.copy()
            self._keys = list(batch.keys(include_nested=True, leaves_only=True))
        return dict(self._replay(*(batch[key] for key in self._keys)))

    def _on_tensors(self, *tensors: Tensor) -> Outputs:
        assert self._batch is not None
        for key, tensor in zip(self._keys, tensors, strict=True):
            self._batch[key] = tensor
        return self._function(self._batch)


def check_cuda_graph(device: torch.device, world: World) -> None:
    """Refuses what cannot be captured.

    Raises:
        InputError: if the device is no GPU or several processes share a step.
    """
    if device.type != "cuda":
        raise InputError(
            f"training.cudagraph=true needs a CUDA device, this run is on {device}; give "
            f"device=cuda or leave it out"
        )
    if world.size > 1:
        raise InputError(
            f"training.cudagraph=true takes one process, this run has {world.size}; leave it out "
            f"or start a single one"
        )
