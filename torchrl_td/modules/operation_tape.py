"""A function of tensors, recorded once and run again without the Python that called it.

At batch 1 a plan is some four thousand operations on a few kilobytes each. Half of them only
look at a tensor another way, all of them find new memory for what they make, and Python's layers
stand around each: a fifth to a quarter of a plan's time. A CUDA graph saves that on a GPU; this is
the same for a CPU. What is recorded are PyTorch's own operations below autograd, so what is
replayed computes what the function computed, to the bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_LINE = 64  # bytes at whose multiples memory is given out, a cache line
_NO_WORK = ("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty")
_TOLERANCE = 1e-4  # of the check; a replay that goes wrong is far from the truth

Tensors = tuple[Tensor, ...]
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
        >>> from torchrl_td.modules.operation_tape import OperationTape
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
            memory = _Memory(operations, outputs)
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


@dataclass
class _Operation:
    """A call of an operation, and the memory it makes: none if it only writes to its arguments."""

    function: OpOverload
    args: tuple
    kwargs: dict[str, Any]
    result: Any
    made: list[Tensor] = field(default_factory=list)

    @property
    def read(self) -> list[Tensor]:
        return [x for x in tree_leaves((self.args, self.kwargs)) if isinstance(x, Tensor)]


class _Recorder(TorchDispatchMode):
    """Notes the operations that compute something; views are made once and for all."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[_Operation] = []
        self.refused = ""
        self._views: list[Any] = []  # kept alive, or their memory could become another tensor's

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        results = [x for x in tree_leaves(result) if x is not None]
        operation = _Operation(function, args, kwargs, result)
        if _waits(operation) or not all(isinstance(x, Tensor) for x in results):
            self.refused = f"{function} waits for a tensor's values"
            return result
        if torch.Tag.inplace_view in function.tags:  # it would do so again at every replay
            self.refused = f"{function} changes a tensor's shape in place"
            return result
        known = {_address(x) for x in operation.read}
        if not function._schema.is_mutable:
            operation.made = [x for x in results if _address(x) not in known]
            if not operation.made:
                self._views.append(result)
                return result
        self.operations.append(operation)
        return result


def _waits(operation: _Operation) -> bool:
    """Whether its result's shape depends on values, as that of an index by a mask does."""
    if torch.Tag.dynamic_output_shape not in operation.function.tags:
        return False
    masks = (torch.bool, torch.uint8)
    return operation.function.overloadpacket is not torch.ops.aten.index or any(
        tensor.dtype in masks for tensor in operation.read[1:]
    )


def _varying(operations: list[_Operation]) -> list[_Operation]:
    """Leaves out what follows from numbers alone: it is always the same, if nobody writes to it."""
    written = {0} | {_address(x) for one in operations if not one.made for x in one.read}
    fixed: set[int] = set()
    varying = []
    for one in operations:
        made = {_address(x) for x in one.made}
        random = torch.Tag.nondeterministic_seeded in one.function.tags
        if random or not made or made & written or not {_address(x) for x in one.read} <= fixed:
            varying.append(one)
        else:
            fixed |= made
    return varying


class _Memory:
    """One stretch of memory for everything a tape makes, used again once nobody reads it.

    Without that each operation would write where no cache holds the memory yet.
    """

    def __init__(self, operations: list[_Operation], outputs: Tensors) -> None:
        end = len(operations)
        made: dict[int, int] = {}  # by address, which operation makes it
        self._read: dict[int, int] = {}  # by address, which operation reads it last
        sizes: dict[int, int] = {}
        for i, operation in enumerate(operations):
            for tensor in operation.read:
                self._read[_address(tensor)] = i
            for tensor in operation.made:
                address = _address(tensor)
                if address and address not in made:
                    made[address] = i
                    sizes[address] = -(-int(tensor.untyped_storage().nbytes()) // _LINE) * _LINE
        self._read |= {_address(output): end for output in outputs}
        self._places = _places(made, self._read, sizes)
        total = max((place + sizes[a] for a, place in self._places.items()), default=0)
        buffer = torch.zeros(total + _LINE, dtype=torch.uint8, device="cpu")
        self._start = -buffer.data_ptr() % _LINE
        self._storage = buffer.untyped_storage()
        self._placed: dict[int, tuple[Tensor, Tensor]] = {}  # by id; the first keeps it unique

    def place(self, tensor: Tensor) -> Tensor:
        """The tensor in this memory, or itself if it was not made by the tape."""
        address = _address(tensor)
        if address not in self._places:
            return tensor
        if id(tensor) not in self._placed:
            offset = self._start + self._places[address]
            empty = torch.empty(0, dtype=tensor.dtype, device="cpu")
            start = offset // tensor.element_size() + int(tensor.storage_offset())
            placed = empty.set_(self._storage, start, tensor.shape, tensor.stride())
            self._placed[id(tensor)] = tensor, placed
        return self._placed[id(tensor)][1]

    def calls(self, operation: _Operation) -> list[tuple[Callable, tuple, dict[str, Any]]]:
        """The operation as a call that writes where its results belong; none if it writes none."""
        function, schema = operation.function, operation.function._schema
        if schema.name in _NO_WORK:
            return []
        args = tree_map_only(Tensor, self.place, operation.args)
        kwargs = tree_map_only(Tensor, self.place, operation.kwargs)
        if not operation.made:
            return [(function._op, args, kwargs)]
        into = _writing_overload(function)
        if into is not None:
            names = [a.name for a in into._schema.arguments if a.is_out]
            results = map(self.place, tree_leaves(operation.result))
            return [(into._op, args, {**kwargs, **dict(zip(names, results, strict=True))})]
        if isinstance(operation.result, Tensor):
            copying = functools.partial(_compute_one, function._op, self.place(operation.result))
            return [(copying, args, kwargs)]
        wanted = [
            (i, self.place(x))
            for i, x in enumerate(operation.result)
            if _address(x) in self._read and _address(x) in self._places
        ]
        return [(functools.partial(_compute_several, function._op, wanted), args, kwargs)]


def _places(made: dict[int, int], read: dict[int, int], sizes: dict[int, int]) -> dict[int, int]:
    """Where each piece of memory goes: the first gap that is free while it is in use."""
    places: dict[int, int] = {}
    in_use: list[int] = []  # addresses, by their place
    for address, operation in made.items():  # in the order they are made
        in_use = [other for other in in_use if read.get(other, made[other]) >= operation]
        place = 0
        for other in in_use:
            if places[other] - place >= sizes[address]:
                break
            place = places[other] + sizes[other]
        places[address] = place
        in_use = sorted([*in_use, address], key=places.__getitem__)
    return places


def _compute_one(function: Callable, place: Tensor, *args: Any, **kwargs: Any) -> None:
    """For an operation that cannot be told where to write."""
    place.copy_(function(*args, **kwargs))


def _compute_several(
    function: Callable, wanted: list[tuple[int, Tensor]], *args: Any, **kwargs: Any
) -> None:
    """The same where it has several results, of which some are used."""
    results = function(*args, **kwargs)
    for i, place in wanted:
        place.copy_(results[i])


@functools.cache
def _writing_overload(function: OpOverload) -> OpOverload | None:
    """The operation's form that writes where it is told, if it has one."""
    schema, packet = function._schema, function.overloadpacket
    wanted = [(a.name, str(a.type)) for a in schema.arguments]
    for name in packet.overloads():
        form = getattr(packet, name)
        given = [(a.name, str(a.type)) for a in form._schema.arguments if not a.is_out]
        outs = sum(a.is_out for a in form._schema.arguments)
        if not outs or outs != len(schema.returns) or given != wanted:
            continue
        # Those written for the CPU: the rest compute as usual and copy all their results.
        if torch._C._dispatch_has_kernel_for_dispatch_key(form.name(), "CPU"):
            return form
    return None


def _address(tensor: Any) -> int:
    """Of the memory below a tensor; 0 for what has none, as weights in oneDNN's order."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
        return 0
    return tensor.untyped_storage().data_ptr()
