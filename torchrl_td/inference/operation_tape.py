"""A function of tensors, recorded once and run again without the Python that called it.

At batch 1 a plan is some four thousand operations on a few kilobytes each. Half of them only
look at a tensor another way, all of them find new memory for what they make, and Python's layers
stand around each: a fifth to a quarter of a plan's time. A CUDA graph saves that on a GPU; this is
the same for a CPU. What is recorded are PyTorch's own operations below autograd, so what is
replayed computes what the function computed, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchrl_td.inference.tape_memory import Operation, TapeMemory, Tensors, address_of

_TOLERANCE = 1e-4  # of the check; a replay that goes wrong is far from the truth

Function = Callable[..., Sequence[Tensor]]


class TapeError(RuntimeError):
    """The function does something that cannot be replayed."""


class OperationTape:
    """The operations of a function of tensors, replayed on memory of their own.

    The function must do the same operations whatever its inputs hold: control flow and Python's
    numbers are those of the recording. Random numbers are drawn anew. Tensors that are neither
    inputs nor made by the function, weights for instance, are read where they lay.

    Args:
        function: takes tensors and returns a sequence of tensors.
        inputs: what to record it with. It is called once more before, for whatever it sets up
            the first time, and is compared with the tape on other inputs afterwards.

    Raises:
        TapeError: if the function reads a tensor's values on the host, changes a tensor's shape in
            place, or if the replay is not what the function computes.

    Examples:
        >>> import torch
        >>> from torchrl_td.inference.operation_tape import OperationTape
        >>> tape = OperationTape(lambda x, y: [(x + y).relu().sum()], torch.ones(3), torch.ones(3))
        >>> tape(torch.ones(3), torch.tensor([0.0, 1.0, -9.0]))
        (tensor(3.),)
    """

    def __init__(self, function: Function, *inputs: Tensor) -> None:
        with torch.inference_mode(False), torch.no_grad():
            self._inputs = tuple(tensor.clone() for tensor in inputs)
            with torch.random.fork_rng(devices=[]):
                function(*self._inputs)
                recorder = _Recorder()
                with recorder:
                    outputs = tuple(function(*self._inputs))
            if recorder.refused:
                raise TapeError(recorder.refused)
            operations = _varying(recorder.operations)
            memory = TapeMemory(operations, outputs)
            self._calls = [call for one in operations for call in memory.calls(one)]
            self._outputs: Tensors = tuple(map(memory.place, outputs))
            self._check(function)

    def __call__(self, *inputs: Tensor) -> Tensors:
        """What the function would return; the memory of it is the caller's."""
        with torch.inference_mode():
            for kept, given in zip(self._inputs, inputs, strict=True):
                kept.copy_(given)
            for call, args, kwargs in self._calls:
                call(*args, **kwargs)
        return tuple(output.clone() for output in self._outputs)

    def _check(self, function: Function) -> None:
        """Compares with the function on other inputs, without a trace in the random state."""
        other = tuple(_disturbed(tensor) for tensor in self._inputs)
        pairs = []
        for way in (function, self):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)  # the CPU's alone
                pairs.append(way(*other))
        for expected, found in zip(*pairs, strict=True):
            if not torch.allclose(expected, found, _TOLERANCE, _TOLERANCE, equal_nan=True):
                raise TapeError("a replay gives other values: it holds what only Python computed")


def _disturbed(tensor: Tensor) -> Tensor:
    """Another input: far from the first, for what was rounded on the host to come out other."""
    generator = torch.Generator().manual_seed(0)
    if tensor.dtype == torch.bool:
        return torch.rand(tensor.shape, generator=generator, device="cpu") > 0.5
    if not tensor.is_floating_point():
        return tensor
    noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype, device="cpu")
    return 2 * tensor + noise


class _Recorder(TorchDispatchMode):
    """Notes the operations that compute something; views are made once and for all."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.refused = ""
        self._views: list[Any] = []  # kept alive, or their memory could become another tensor's

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        reshapes = torch.Tag.inplace_view in function.tags
        before = _layout(args[0]) if reshapes else None
        result = function(*args, **kwargs)
        results = [x for x in tree_leaves(result) if x is not None]
        operation = Operation(function, args, kwargs, result)
        if _waits(operation) or not all(isinstance(x, Tensor) for x in results):
            self.refused = f"{function} waits for a tensor's values"
            return result
        if reshapes:  # again at every replay, if it does anything; a GRU's of one row does not
            if _layout(args[0]) != before:
                self.refused = f"{function} changes a tensor's shape in place"
            return result
        known = {address_of(x) for x in operation.read}
        if not function._schema.is_mutable:
            operation.made = [x for x in results if address_of(x) not in known]
            if not operation.made:
                self._views.append(result)
                return result
        self.operations.append(operation)
        return result


def _layout(tensor: Tensor) -> tuple:
    """Where a tensor's entries lie, whatever the strides of dimensions with one entry."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    strides = [stride for size, stride in pairs if size > 1]
    return address_of(tensor), tensor.storage_offset(), tensor.shape, strides


def _waits(operation: Operation) -> bool:
    """Whether its result's shape depends on values, as that of an index by a mask does."""
    if torch.Tag.dynamic_output_shape not in operation.function.tags:
        return False
    masks = (torch.bool, torch.uint8)
    return operation.function.overloadpacket is not torch.ops.aten.index or any(
        tensor.dtype in masks for tensor in operation.read[1:]
    )


def _varying(operations: list[Operation]) -> list[Operation]:
    """Leaves out what follows from numbers alone: it is always the same, if nobody writes to it."""
    written = {0} | {address_of(x) for one in operations if not one.made for x in one.read}
    fixed: set[int] = set()
    varying = []
    for one in operations:
        made = {address_of(x) for x in one.made}
        random = torch.Tag.nondeterministic_seeded in one.function.tags
        if random or not made or made & written or not {address_of(x) for x in one.read} <= fixed:
            varying.append(one)
        else:
            fixed |= made
    return varying
