"""The floor: how fast this very machine could plan at best.

A plan is a row of network calls, each of which needs the one before. A call multiplies
matrices (operations over the machine's best matrix-product rate) and reads its weights
(bytes over the rate at which this machine reads that many bytes again and again, caches
included); it cannot take less than the longer of the two. The floor of a plan is the sum
over its calls. Activations, norms and attention scores are left out: they would only raise it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Work:
    """What one or more network calls need.

    Attributes:
        operations: multiplications and additions of the products with weights.
        bytes: of the weights that meet data, in single precision.
    """

    operations: float = 0.0
    bytes: float = 0.0


def count_work(network: nn.Module, call: Callable[[], object]) -> Work:
    """The work of one call of a network, counted layer by layer."""
    work = Work()

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0]
        if isinstance(module, nn.Linear):
            rows = x.numel() // module.in_features
            work.operations += 2.0 * rows * module.weight.numel()
            work.bytes += 4.0 * module.weight.numel()
            return
        kernel, stride = module.kernel_size[0], module.stride[0]
        padding, channels = module.padding[0], module.in_channels * module.out_channels
        short, long = sorted((x.shape[2], output.shape[2]))
        if isinstance(module, nn.ConvTranspose1d):  # the mirror image of a halving convolution
            pairs = _taps(long, short, kernel, stride, padding)
        else:
            pairs = _taps(x.shape[2], output.shape[2], kernel, stride, padding)
        work.operations += 2.0 * x.shape[0] * channels * sum(pairs)
        work.bytes += 4.0 * channels * sum(pair > 0 for pair in pairs)

    kinds = (nn.Linear, nn.Conv1d, nn.ConvTranspose1d)
    layers = [module for module in network.modules() if isinstance(module, kinds)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            call()
    finally:
        for hook in hooks:
            hook.remove()
    return work


def _taps(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> list[int]:
    """For each tap of a convolution, how many outputs it gives data and not padding to."""
    return [
        sum(0 <= out * stride + tap - padding < inputs for out in range(outputs))
        for tap in range(kernel)
    ]


class Machine:
    """Rates of a device, measured when they are first asked for.

    Args:
        device: which.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._operations: float | None = None
        self._bytes: dict[int, float] = {}

    def operations_per_second(self) -> float:
        """The best matrix-product rate of several sizes and ways, single precision."""
        if self._operations is None:
            self._operations = max(self._product_rate(size) for size in (512, 1024, 2048))
        return self._operations

    def bytes_per_second(self, count: float) -> float:
        """The best rate of reading a buffer of so many bytes again and again."""
        megabytes = max(1, round(count / 2**20))
        if megabytes not in self._bytes:
            buffer = torch.ones(megabytes * 2**18, device=self.device)
            seconds = self._best(lambda: buffer.sum(), 30)
            self._bytes[megabytes] = megabytes * 2**20 / seconds
        return self._bytes[megabytes]

    def seconds(self, work: Work) -> float:
        """The floor of one network call."""
        return max(
            work.operations / self.operations_per_second(),
            work.bytes / self.bytes_per_second(work.bytes),
        )

    def _product_rate(self, size: int) -> float:
        layer = nn.Linear(size, size, bias=False).to(self.device)
        x = torch.randn(size, size, device=self.device)
        seconds = self._best(lambda: layer(x), 10)
        if self.device.type == "cuda":  # in TF32 unless switched off, where products are not
            convolution = nn.Conv1d(size, size, 1, bias=False).to(self.device)
            seconds = min(seconds, self._best(lambda: convolution(x.unsqueeze(0)), 10))
        return 2.0 * size**3 / seconds

    def _best(self, function: Callable[[], object], repeats: int) -> float:
        # Waiting for a GPU takes as long as one call; among many it does not count.
        calls = 50 if self.device.type == "cuda" else 1
        times = []
        with torch.no_grad():
            for _ in range(repeats):
                self.synchronize()
                start = time.perf_counter()
                for _ in range(calls):
                    function()
                self.synchronize()
                times.append((time.perf_counter() - start) / calls)
        return min(times)

    def synchronize(self) -> None:
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
