"""What stands in for a CUDA graph on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


class Tape(TorchDispatchMode):
    """Notes every operation with the tensors it met, and does them again on the same memory.

    As in a CUDA graph, Python's numbers are those of the recording and random ones are drawn anew.
    Recording, unlike a capture, runs what it records: that counts as the first replay.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple, dict, list]] = []
        self.replays = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        if function in (aten._local_scalar_dense.default, aten.equal.default):
            raise AssertionError(f"the host waits for the device in {function}")
        outputs = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, tree_leaves(outputs)))
        return outputs

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for function, args, kwargs, outputs in self.operations if self.replays > 1 else ():
            if function.is_view:
                continue
            again = tree_leaves(function(*args, **kwargs))
            for output, value in zip(outputs, again, strict=True):
                if torch.is_tensor(output) and output.data_ptr() != value.data_ptr():
                    output.copy_(value)
