"""Which library multiplies a training step's matrices on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

_SIDE = 256
_ONEDNN: Any = torch.backends.mkldnn  # its type hints lack the precision of products
_ROUNDING = 1e-5  # largest error of a float32 product of numbers about 1; bfloat16's is 1e-2


@contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """Within it, oneDNN multiplies float32 matrices where PyTorch's own library runs at half speed.

    PyTorch multiplies by MKL, which uses AVX-512 on Intel's CPUs only. oneDNN uses it on AMD's as
    well, and PyTorch turns to it when it may round to bfloat16. It does not round where the CPU has
    no AMX: products stay float32's, summed in another order. A small product (a plan for one state)
    loses more by it than it gains, so it is for training alone.

    Args:
        device: where the step runs; only the CPU is affected.

    Example:
        >>> with fast_products(torch.device("cpu")):
        ...     product = torch.eye(3) @ torch.ones(3, 2)
        >>> product.sum()
        tensor(6.)
    """
    if device.type != "cpu" or not _onednn_is_faster():
        yield
        return
    settings = _ONEDNN.matmul
    before = settings.fp32_precision
    if before == "none":  # a user's choice stays
        settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


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
    settings = _ONEDNN.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        error = (left @ right).double() - left.double() @ right.double()
    finally:
        settings.fp32_precision = before
    return bool(error.abs().max() < _ROUNDING)
