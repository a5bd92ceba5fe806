"""Weights rearranged for fast inference on the CPU.

At batch 1 a plan waits for its weights to come from memory. oneDNN multiplies short
matrices two to three times faster when a weight lies in its own blocked order, and a single
row is multiplied faster still by FBGEMM where the weight is transposed. But putting it in
another order costs as much as using it, so it is done once and kept while the weights stay
what they were.

The layers ask for :func:`active_weights` at every matrix product; outside of a
``with PackedWeights(...)`` block, or where gradients are wanted, they compute as ever.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_PROBES = 16  # entries of each weight that are compared before a packed one is used
_SMALLEST = 2**15  # entries of a weight; for less a packed product costs more than it saves
_CONVOLUTION = "convolution"  # the variant of a weight that is packed as one
_ROWS = 16  # oneDNN asks for which number of rows to pack; only 1 makes it choose worse

_Product = Callable[[Tensor, Tensor | None], Tensor]  # x [..., K] and a bias [N] -> [..., N]


class _Active(threading.local):
    weights: PackedWeights | None = None

    def __init__(self) -> None:
        self.outer: list[PackedWeights | None] = []  # of the blocks this thread is inside of


_active = _Active()


class PackedWeights:
    """A cache of rearranged weights, valid inside its ``with`` block.

    At the block's start it is checked that the weights are those which were packed: their
    storage, their version and some entries of each, so that an optimiser's step,
    ``load_state_dict``, a moving average or a collector's weight update all make it pack anew.

    Args:
        networks: whose weights may be packed.

    Attributes:
        packings: how often the weights were found to be others than those packed.

    Examples:
        >>> import torch
        >>> from torchrl_td.networks import MLP
        >>> from torchrl_td.inference.packed_weights import PackedWeights
        >>> network, x = MLP(4, (32,), 2), torch.randn(3, 4)
        >>> packed = PackedWeights([network])
        >>> with torch.no_grad(), packed:
        ...     y = network(x)
        >>> torch.allclose(y, network(x), atol=1e-6)
        True
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        # Whatever has a matrix or a kernel for its weight may be packed; kept here, so that no
        # other module can come to have its id. A weight that is computed, as by a
        # parametrisation or by pruning, is no parameter and is computed with as it is.
        modules = [module for network in networks for module in network.modules()]
        self._modules = [m for m in modules if _is_matrix(m._parameters.get("weight"))]
        self._weights: list[Tensor | None] = []
        self._known: dict[int, Tensor] = {}  # by the module's id
        self._marks: list[tuple[int, int]] = []  # version and address of each
        self._probes: list[Tensor] = []
        self._probed: Tensor | None = None
        self._packed: dict[tuple[int, Hashable, bool], _Product] = {}
        self.packings = 0

    @staticmethod
    def available() -> bool:
        """Whether this machine and this PyTorch have oneDNN's packed products."""
        return torch.backends.mkldnn.is_available() and hasattr(
            torch.ops.mkldnn, "_linear_pointwise"
        )

    def __enter__(self) -> PackedWeights:
        if not self._unchanged():
            self._forget()
        _active.outer.append(_active.weights)
        _active.weights = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _active.weights = _active.outer.pop()

    def product(
        self,
        x: Tensor,
        module: nn.Module,
        matrix: Callable[[Any], Tensor],
        bias: Tensor | None,
        variant: Hashable = 0,
        also: Sequence[nn.Module] = (),
    ) -> Tensor:
        """x [..., K] times a weight [N, K], plus the bias.

        Args:
            x: the input.
            module: whose weight it is.
            matrix: gives that weight when it is to be packed, for this ``variant``.
            bias: shape [N], or ``None``.
            variant: tells several matrices of one module apart.
            also: further modules whose weights it was put together from.
        """
        if not (self._knows(module) and all(map(self._knows, also))):
            return F.linear(x, matrix(variant), bias)
        single = x.numel() == x.shape[-1]
        key = (id(module), variant, single)
        product = self._packed.get(key)
        if product is None:
            product = self._packed[key] = _pack(matrix(variant).detach(), single)
        return product(x, bias)

    def convolution(self, x: Tensor, conv: nn.Conv1d) -> Tensor:
        """The convolution of x [B, C, T], whose memory is best in the order [B, T, C]."""
        if not self._knows(conv):
            return F.conv1d(x, conv.weight, conv.bias, conv.stride, conv.padding)
        x = x.unsqueeze(2)  # [B, C, 1, T], for oneDNN packs those of images only
        padding, stride = [0, conv.kernel_size[0] // 2], [1, conv.stride[0]]
        key = (id(conv), _CONVOLUTION, False)
        convolve = self._packed.get(key)
        if convolve is None:
            weight = conv.weight.detach().unsqueeze(2)
            packed = torch.ops.mkldnn._reorder_convolution_weight(
                weight, padding, stride, [1, 1], 1, list(x.shape)
            )
            convolve = self._packed[key] = functools.partial(_convolve, packed, padding, stride)
        return convolve(x, conv.bias).squeeze(2)

    def _knows(self, module: nn.Module) -> bool:
        """Whether its weight is watched: not where another was put there since."""
        weight = module._parameters.get("weight")
        return weight is not None and self._known.get(id(module)) is weight

    def _unchanged(self) -> bool:
        return (
            self._probed is not None
            and all(
                module._parameters.get("weight") is weight
                for module, weight in zip(self._modules, self._weights, strict=True)
            )
            and self._marks == [_mark(w) for w in self._known.values()]
            and torch.equal(torch.cat(self._probes), self._probed)
        )

    def _forget(self) -> None:
        """Drops what was packed and takes down what the weights look like now."""
        self._packed.clear()
        self.packings += 1
        self._weights = [module._parameters.get("weight") for module in self._modules]
        pairs = zip(self._modules, self._weights, strict=True)
        self._known = {id(module): w for module, w in pairs if w is not None and _is_matrix(w)}
        self._marks = [_mark(w) for w in self._known.values()]
        # Views keep the storage alive: its address cannot come back as another weight's. The
        # stride is odd, or the rows' lengths, which are even, would have it meet one column alone.
        flat = [w.detach().reshape(-1) for w in self._known.values()]
        self._probes = [w[:: max(1, w.numel() // _PROBES) | 1] for w in flat]
        self._probes.append(torch.empty(0, device="cpu"))  # there may be no others
        self._probed = torch.cat(self._probes)


def _is_matrix(weight: Tensor | None) -> bool:
    return weight is not None and weight.ndim > 1


def _mark(weight: Tensor) -> tuple[int, int]:
    """Version, where one is counted, and address."""
    return 0 if weight.is_inference() else weight._version, weight.data_ptr()


def _pack(weight: Tensor, single: bool) -> _Product:
    """The product with a weight [N, K] in whatever form is fastest, for one row or for several."""
    if weight.numel() < _SMALLEST:
        return functools.partial(_plain_product, weight.contiguous())
    if single:
        return _pack_for_one_row(weight)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
    return functools.partial(_packed_product, packed)


def _plain_product(weight: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    # As rows: overlapping windows would be multiplied by another, slower function.
    rows = x.reshape(-1, x.shape[-1])
    return F.linear(rows, weight, bias).view(*x.shape[:-1], len(weight))


def _packed_product(weight: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _convolve(
    weight: Tensor, padding: list[int], stride: list[int], x: Tensor, bias: Tensor | None
) -> Tensor:
    return torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, padding, stride, [1, 1], 1, "none", [], ""
    )


def _pack_for_one_row(weight: Tensor) -> _Product:
    """The product of a weight [N, K] with one row.

    It is the sum of the weight's K columns, weighted by the row's entries, and FBGEMM's
    embedding bag takes such sums while it fetches what comes next: a quarter to a half faster
    than oneDNN's product, which for one row is far slower than the memory. Its accumulators
    hold some 500 columns, so a wider weight is several bags, and so it is for several threads,
    which share the bags.
    """
    outputs, inputs = weight.shape
    widest = 512 // torch.get_num_threads()
    widths = (w for w in (512, 384, 256, 128, 64) if w <= widest and outputs % w == 0)
    width = next(widths, outputs)
    bags = outputs // width
    table = weight.view(bags, width, inputs).transpose(1, 2).reshape(-1, width)  # [bags · K, w]
    on = weight.device
    index = torch.arange(len(table), dtype=torch.int32, device=on)
    ends = torch.arange(0, len(table) + 1, inputs, dtype=torch.int32, device=on)
    return functools.partial(_row_product, table.contiguous(), index, ends, bags)


def _row_product(
    table: Tensor, index: Tensor, ends: Tensor, bags: int, x: Tensor, bias: Tensor | None
) -> Tensor:
    row = x.reshape(-1) if bags == 1 else torch.cat([x.reshape(-1)] * bags)
    out = torch.embedding_bag(table, index, ends, False, 0, False, row, True)[0]
    out = out.view(*x.shape[:-1], -1)
    return out if bias is None else out.add_(bias)


def active_weights() -> PackedWeights | None:
    """The packed weights to use now, if any."""
    return None if torch.is_grad_enabled() else _active.weights


class Linear(nn.Linear):
    """``nn.Linear`` that uses packed weights where they are active."""

    def forward(self, x: Tensor) -> Tensor:
        packed = active_weights()
        if packed is None:
            return F.linear(x, self.weight, self.bias)
        return packed.product(x, self, self._matrix, self.bias)

    def _matrix(self, variant: int) -> Tensor:
        return self.weight
