"""The memory of a tape of operations: where each result goes, and the calls that put it there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves, tree_map_only

_LINE = 64  # bytes at whose multiples memory is given out, a cache line
_NO_WORK = ("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty")

Tensors = tuple[Tensor, ...]
Call = tuple[Callable, tuple, dict[str, Any]]


@dataclass
class Operation:
    """A call of an operation, and the memory it makes: none if it only writes to its arguments."""

    function: OpOverload
    args: tuple
    kwargs: dict[str, Any]
    result: Any
    made: list[Tensor] = field(default_factory=list)

    @property
    def read(self) -> list[Tensor]:
        return [x for x in tree_leaves((self.args, self.kwargs)) if isinstance(x, Tensor)]


class TapeMemory:
    """One stretch of memory for everything a tape makes, used again once nobody reads it.

    Without that each operation would write where no cache holds the memory yet.
    """

    def __init__(self, operations: list[Operation], outputs: Tensors) -> None:
        end = len(operations)
        made: dict[int, int] = {}  # by address, which operation makes it
        self._read: dict[int, int] = {}  # by address, which operation reads it last
        sizes: dict[int, int] = {}
        for i, operation in enumerate(operations):
            for tensor in operation.read:
                self._read[address_of(tensor)] = i
            for tensor in operation.made:
                address = address_of(tensor)
                if address and address not in made:
                    made[address] = i
                    sizes[address] = -(-int(tensor.untyped_storage().nbytes()) // _LINE) * _LINE
        self._read |= {address_of(output): end for output in outputs}
        self._places = _places(made, self._read, sizes)
        total = max((place + sizes[a] for a, place in self._places.items()), default=0)
        buffer = torch.zeros(total + _LINE, dtype=torch.uint8, device="cpu")
        self._start = -buffer.data_ptr() % _LINE
        self._storage = buffer.untyped_storage()
        self._placed: dict[int, tuple[Tensor, Tensor]] = {}  # by id; the first keeps it unique

    def place(self, tensor: Tensor) -> Tensor:
        """The tensor in this memory, or itself if it was not made by the tape."""
        address = address_of(tensor)
        if address not in self._places:
            return tensor
        if id(tensor) not in self._placed:
            offset = self._start + self._places[address]
            empty = torch.empty(0, dtype=tensor.dtype, device="cpu")
            start = offset // tensor.element_size() + int(tensor.storage_offset())
            placed = empty.set_(self._storage, start, tensor.shape, tensor.stride())
            self._placed[id(tensor)] = tensor, placed
        return self._placed[id(tensor)][1]

    def calls(self, operation: Operation) -> list[Call]:
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
            if address_of(x) in self._read and address_of(x) in self._places
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


def address_of(tensor: Any) -> int:
    """Of the memory below a tensor; 0 for what has none, as weights in oneDNN's order."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
        return 0
    return tensor.untyped_storage().data_ptr()
