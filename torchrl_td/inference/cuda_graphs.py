"""A function of tensors on a GPU, replayed as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

WARM_UP = 3  # calls before capturing: libraries set themselves up, optimisers make their state

Outputs = TypeVar("Outputs")  # a dictionary or a tuple of tensors


class GraphReplay(Generic[Outputs]):
    """Calls a function of tensors; after a few calls, by replaying one CUDA graph.

    What these networks do is thousands of short kernels, and launching them one by one takes
    longer than running them. A replay launches all of them at once, and waits for nothing, so
    the host goes on while the device still computes (tensordict's ``CudaGraphModule`` waits for
    the device at each call).

    Args:
        function: takes tensors of always the same shapes and returns tensors. Whatever else
            changes from one call to the next must be in tensors that stay where they are
            (weights, optimiser states, a learning rate), or be drawn from the device's own
            generator, which a replay moves on as the single operations would.
        device: the CUDA device.
    """

    def __init__(self, function: Callable[..., Outputs], device: torch.device) -> None:
        self._function, self._device = function, device
        self._calls = 0
        self._inputs: list[Tensor] = []  # what the graph reads
        self._captured: tuple[Callable[[], None], Outputs] | None = None

    def __call__(self, *inputs: Tensor) -> Outputs:
        """What the function returns; the next call writes over it."""
        if self._calls < WARM_UP:
            self._calls += 1
            return on_side_stream(lambda: self._function(*inputs), self._device)
        if self._captured is None:
            self._inputs = [tensor.clone() for tensor in inputs]
            self._captured = capture(lambda: self._function(*self._inputs), self._device)
        else:
            torch._foreach_copy_(self._inputs, list(inputs))
        replay, outputs = self._captured
        replay()
        return outputs


def on_side_stream(function: Callable[[], Outputs], device: torch.device) -> Outputs:
    """Calls a function on a stream of its own, as PyTorch asks of calls before a capture."""
    main = torch.cuda.current_stream(device)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(main)
    with torch.cuda.stream(stream):
        outputs = function()
    main.wait_stream(stream)
    for output in tree_leaves(outputs):
        output.record_stream(main)
    return outputs


def capture(
    function: Callable[[], Outputs], device: torch.device
) -> tuple[Callable[[], None], Outputs]:
    """Captures a function without running it.

    Returns:
        What runs it, and the tensors that it then writes to.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph, stream=torch.cuda.Stream(device)):
        outputs = function()
    return graph.replay, outputs
