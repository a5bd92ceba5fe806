"""A training step as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDictBase
from torch import Tensor

from torchrl_td.distributed import World
from torchrl_td.errors import TDError

Outputs = dict[str, Tensor]
_WARM_UP = 3  # calls before capturing: libraries set themselves up, optimisers make their state


class CudaGraphStep:
    """Calls a function of a batch; after a few calls, by replaying one CUDA graph.

    A step of these networks is thousands of short kernels, and launching them one by one takes
    longer than running them. A replay launches all of them at once, and waits for nothing, so
    the next batch is drawn while the device still computes (tensordict's ``CudaGraphModule``
    waits for the device at each call).

    Args:
        function: what a step does, on a batch of always the same shapes. Whatever changes from
            one step to the next must be in tensors that stay where they are (weights, optimiser
            states, the learning rate), or be drawn from the device's own generator, which a
            replay moves on as the single operations would.
        device: the CUDA device.
    """

    def __init__(self, function: Callable[[TensorDictBase], Outputs], device: torch.device) -> None:
        self._function, self._device = function, device
        self._calls = 0
        self._batch: TensorDictBase | None = None  # what the graph reads
        self._replay: Callable[[], None] | None = None
        self._outputs: Outputs = {}

    def __call__(self, batch: TensorDictBase) -> Outputs:
        """A step; what it returns is overwritten by the next one."""
        if self._calls < _WARM_UP:
            self._calls += 1
            return aside(lambda: self._function(batch), self._device)
        if self._replay is None:
            self._batch = static = batch.clone()
            self._replay, self._outputs = capture(lambda: self._function(static), self._device)
        else:
            assert self._batch is not None
            keys = list(self._batch.keys(include_nested=True, leaves_only=True))
            torch._foreach_copy_([self._batch[k] for k in keys], [batch[k] for k in keys])
        self._replay()
        return dict(self._outputs)


def check_cuda_graph(device: torch.device, world: World) -> None:
    """Refuses what cannot be captured.

    Raises:
        TDError: if the device is no GPU or several processes share a step.
    """
    if device.type != "cuda":
        raise TDError(
            f"training.cudagraph=true needs a CUDA device, this run is on {device}; give "
            f"device=cuda or leave it out"
        )
    if world.size > 1:
        raise TDError(
            f"training.cudagraph=true takes one process, this run has {world.size}; leave it out "
            f"or start a single one"
        )


def aside(function: Callable[[], Outputs], device: torch.device) -> Outputs:
    """Calls a function on a stream of its own, as PyTorch asks of calls before a capture."""
    main = torch.cuda.current_stream(device)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(main)
    with torch.cuda.stream(stream):
        outputs = function()
    main.wait_stream(stream)
    for output in outputs.values():
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
