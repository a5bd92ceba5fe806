"""Weights rearranged for fast inference on the CPU.

At batch 1 a plan waits for its weights to come from memory. oneDNN multiplies short
matrices two to three times faster when a weight lies in its own blocked order, but putting
it in that order costs as much as using it, so it is done once and kept while the weights
stay what they were.

The layers ask for :func:`active_weights` at every matrix product; outside of a
``with PackedWeights(...)`` block, or where gradients are wanted, they compute as ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_PROBES = 16  # entries of each weight that are compared before a packed one is used
_SMALLEST = 2**15  # entries of a weight; for less a packed product costs more than it saves
_ROWS = 16  # oneDNN asks for which number of rows to pack; only 1 makes it choose worse


class _Active(threading.local):
    weights: PackedWeights | None = None


_active = _Active()


class PackedWeights:
    """A cache of rearranged weights, valid inside its ``with`` block.

    At the block's start it is checked that the weights are those which were packed: their
    storage, their version and some entries of each, so that an optimiser's step,
    ``load_state_dict``, a moving average or a collector's weight update all make it pack anew.

    Args:
        networks: whose weights may be packed.

    Examples:
        >>> import torch
        >>> from torchrl_td.networks import MLP
        >>> from torchrl_td.networks.packing import PackedWeights
        >>> network, x = MLP(4, (32,), 2), torch.randn(3, 4)
        >>> packed = PackedWeights([network])
        >>> with torch.no_grad(), packed:
        ...     y = network(x)
        >>> torch.allclose(y, network(x), atol=1e-6)
        True
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        # Whatever has a matrix or a kernel for its weight may be packed; kept here, so that no
        # other module can come to have its id.
        modules = [module for network in networks for module in network.modules()]
        self._modules = [m for m in modules if getattr(m, "weight", None) is not None]
        self._modules = [m for m in self._modules if m.weight.ndim > 1]
        self._weights: list[Tensor] = []
        self._known: dict[int, Tensor] = {}  # by the module's id
        self._versions: list[int] = []
        self._addresses: list[int] = []
        self._probes: list[Tensor] = []
        self._probed: Tensor | None = None
        self._packed: dict[tuple[int, int], Tensor] = {}
        self._outer: PackedWeights | None = None

    @staticmethod
    def available() -> bool:
        """Whether this machine and this PyTorch have oneDNN's packed products."""
        return torch.backends.mkldnn.is_available() and hasattr(
            torch.ops.mkldnn, "_linear_pointwise"
        )

    def __enter__(self) -> PackedWeights:
        if not self._unchanged():
            self._forget()
        self._outer = _active.weights
        _active.weights = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _active.weights = self._outer

    def product(
        self,
        x: Tensor,
        module: nn.Module,
        matrix: Callable[[int], Tensor],
        bias: Tensor | None,
        variant: int = 0,
    ) -> Tensor:
        """x [..., K] times a weight [N, K], plus the bias.

        Args:
            x: the input.
            module: whose weight it is.
            matrix: gives that weight when it is to be packed, for this ``variant``.
            bias: shape [N], or ``None``.
            variant: tells several matrices of one module apart.
        """
        weight = module._parameters["weight"]
        if self._known.get(id(module)) is not weight:  # put there since, or never watched
            return F.linear(x, matrix(variant), bias)
        key = (id(module), variant)
        packed = self._packed.get(key)
        if packed is None:
            packed = matrix(variant).detach().contiguous()
            if packed.numel() >= _SMALLEST:
                packed = torch.ops.mkldnn._reorder_linear_weight(packed, _ROWS)
            self._packed[key] = packed
        if not packed.is_mkldnn:
            return F.linear(x, packed, bias)
        return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")

    def _unchanged(self) -> bool:
        weights = self._current()
        return (
            self._probed is not None
            and all(new is old for new, old in zip(weights, self._weights, strict=True))
            and [w._version for w in weights] == self._versions
            and [w.data_ptr() for w in weights] == self._addresses
            and torch.equal(torch.cat(self._probes), self._probed)
        )

    def _current(self) -> list[Tensor]:
        return [module._parameters["weight"] for module in self._modules]  # type: ignore[misc]

    def _forget(self) -> None:
        """Drops what was packed and takes down what the weights look like now."""
        self._packed.clear()
        self._weights = self._current()
        self._known = {id(m): w for m, w in zip(self._modules, self._weights, strict=True)}
        self._versions = [w._version for w in self._weights]
        self._addresses = [w.data_ptr() for w in self._weights]
        # Views keep the storage alive: its address cannot come back as another weight's.
        flat = [w.detach().reshape(-1) for w in self._weights]
        self._probes = [w[:: max(1, w.numel() // _PROBES)] for w in flat]
        self._probed = torch.cat(self._probes)


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
