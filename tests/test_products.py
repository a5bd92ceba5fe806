"""Who multiplies a training step's matrices, and how exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchrl_td.config import Config
from torchrl_td.data import load_episodes
from torchrl_td.training import products
from torchrl_td.training.products import fast_products, products_of
from torchrl_td.training.trainer import Trainer

CPU = torch.device("cpu")
LARGE = torch.nn.Linear(256, 256)
FASTER = {"avx512_bw": True, "amx_tile": False, "cpu_name": "AMD EPYC"}


@pytest.fixture(autouse=True)
def undecided() -> Iterator[None]:
    """Each test decides anew, and so does what follows it."""
    products._onednn_is_faster.cache_clear()
    yield
    products._onednn_is_faster.cache_clear()


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU on which oneDNN is faster, and exact."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: FASTER, raising=False)
    monkeypatch.setattr(products, "_keeps_float32", lambda: True)


def precision() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


@pytest.mark.parametrize(
    ("has", "exact", "faster"),
    [
        ({}, True, True),
        ({"amx_tile": True}, True, False),  # oneDNN would round
        ({"avx512_bw": False}, True, False),  # nothing that MKL leaves unused
        ({"cpu_name": "Intel(R) Xeon(R)"}, True, False),
        ({}, False, False),
    ],
)
def test_only_where_it_is_faster_and_as_exact(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, Any], exact: bool, faster: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: FASTER | has, raising=False)
    monkeypatch.setattr(products, "_keeps_float32", lambda: exact)
    with products_of(LARGE, CPU)():
        assert precision() == ("bf16" if faster else "none")
    assert precision() == "none"


def test_older_pytorch_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert products_of(LARGE, CPU) is nullcontext


@pytest.mark.usefixtures("faster")
def test_only_for_large_weights_on_the_cpu() -> None:
    assert products_of(LARGE, CPU) is fast_products
    assert products_of(torch.nn.Linear(255, 256), CPU) is nullcontext
    assert products_of(LARGE, torch.device("cuda")) is nullcontext


def test_a_choice_that_was_made_stays() -> None:
    torch.backends.mkldnn.matmul.fp32_precision = "ieee"
    try:
        with fast_products():
            assert precision() == "ieee"
        assert precision() == "ieee"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = "none"


def test_a_choice_for_all_of_pytorch_is_not_made_one_of_its_own() -> None:
    torch.backends.fp32_precision = "ieee"
    try:
        with fast_products():
            assert precision() == "ieee"
        torch.backends.fp32_precision = "tf32"
        assert precision() == "tf32"
    finally:
        torch.backends.fp32_precision = "none"
    assert precision() == "none"


def test_is_over_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), fast_products():
        raise ZeroDivisionError
    assert precision() == "none"


@given(
    rows=st.integers(1, 300),
    inner=st.integers(1, 300),
    columns=st.integers(1, 300),
    turned=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_products_and_gradients_are_those_of_float32(
    rows: int, inner: int, columns: int, turned: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, inner, generator=generator)
    right = torch.randn(columns, inner, generator=generator).t()
    right = right if turned else right.contiguous()
    left.requires_grad_()
    exact = left.detach().double().requires_grad_()
    with products_of(LARGE, CPU)():  # where oneDNN would round this is not it
        product = left @ right
        product.sum().backward()
    expected = exact @ right.double()
    expected.sum().backward()
    # bfloat16's errors are some hundred times as large
    torch.testing.assert_close(product.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(left.grad.double(), exact.grad, rtol=1e-4, atol=1e-3)


def test_training_is_the_same_but_for_rounding(
    tiny_config: Callable[..., Config], tiny_pointmaze: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not products._onednn_is_faster():
        pytest.skip("MKL is as fast here")
    losses = []
    for _ in range(2):
        trainer = Trainer(
            tiny_config("inverse_dynamics.hidden_dims=[256,256]"),
            load_episodes(tiny_pointmaze),
            CPU,
        )
        trainer.train_step()
        losses.append(trainer.read_metrics())
        monkeypatch.setattr("torchrl_td.training.trainer.products_of", lambda *_: nullcontext)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
