"""Which library multiplies a training step's matrices on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import nn

_SIDE = 256  # of the matrices by which oneDNN's exactness is judged
_ONEDNN: Any = torch.backends.mkldnn  # its type hints lack the precision of products
_ROUNDING = 1e-5  # largest error of a float32 product of numbers about 1; bfloat16's is 1e-2
_LARGE = 2**16  # entries of a weight; preset small, whose largest has 49,152, trains slower with it


def products_of(module: nn.Module, device: torch.device) -> Callable[[], AbstractContextManager]:
    """The context in which steps that train a module are fastest.

    Args:
        module: what is trained.
        device: where.

    Returns:
        :func:`fast_products` where a weight is large, on a CPU whose AVX-512 PyTorch's own library
        leaves unused and of whose oneDNN the products are as exact; else one that changes nothing.

    Example:
        >>> with products_of(torch.nn.Linear(3, 2), torch.device("cpu"))():
        ...     torch.backends.mkldnn.matmul.fp32_precision
        'none'
    """
    large = any(p.ndim == 2 and p.numel() >= _LARGE for p in module.parameters())
    return fast_products if large and device.type == "cpu" and _onednn_is_faster() else nullcontext


@contextmanager
def fast_products() -> Iterator[None]:
    """Within it, oneDNN multiplies float32 matrices on the CPU.

    PyTorch multiplies by MKL, which uses AVX-512 on Intel's CPUs only. oneDNN uses it on AMD's as
    well, and PyTorch turns to it when it may round to bfloat16. It does not round where the CPU has
    no AMX: products stay float32's, summed in another order. A small product (a plan for one state)
    loses more by it than it gains, so it is for training alone. The switch is the process'.
    """
    settings = _ONEDNN.matmul
    chosen = settings.fp32_precision != "none"  # by the user, here or for all of PyTorch
    if not chosen:
        settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        if not chosen:
            settings.fp32_precision = "none"


@cache
def _onednn_is_faster() -> bool:
    """Whether MKL leaves AVX-512 unused here and oneDNN's products are as exact."""
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older PyTorch has none
    unused = has.get("avx512_bw") and "AMD" in has.get("cpu_name", "") and not has.get("amx_tile")
    return bool(unused and _ONEDNN.is_available() and _keeps_float32())


def _keeps_float32() -> bool:
    """Compares a product of oneDNN's with that of double precision."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.rand(2, _SIDE, _SIDE, generator=generator) - 0.5
    with fast_products():
        error = (left @ right).double() - left.double() @ right.double()
    return bool(error.abs().max() < _ROUNDING)
