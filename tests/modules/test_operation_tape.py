"""A tape computes what the function computes, or refuses to be one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from torchrl_td.inference.operation_tape import OperationTape, TapeError

SHAPE = (3, 4)
# Steps of a random program: each takes two tensors of SHAPE and makes one. Among them are views,
# writes into views, several results, constants, random numbers, and operations without a form
# that writes where it is told.
STEPS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda x, y: x + y,
    lambda x, y: x.t().contiguous().t() * y,
    lambda x, y: torch.cat([x[:, 2:], y[:, :2]], 1),
    lambda x, y: x.clone().copy_(y).mul_(0.5),
    lambda x, y: _written_in_place(x, y),
    lambda x, y: x.split(2, 1)[1].repeat(1, 2),
    lambda x, y: torch.zeros(SHAPE).add_(x),  # a constant that is written to
    lambda x, y: x + torch.arange(4.0),
    lambda x, y: x.max(1, keepdim=True).values.expand(SHAPE),
    lambda x, y: F.layer_norm(x, (4,)) + F.mish(y),
    lambda x, y: F.group_norm(x.unsqueeze(0), 3).squeeze(0),
    lambda x, y: F.scaled_dot_product_attention(*(z[None, None] for z in (x, y, x)))[0, 0],
    lambda x, y: (x @ y.t()).softmax(1) @ y,
    lambda x, y: x[torch.tensor([2, 0, 1])],
    lambda x, y: x * y.sum(),  # has forms that are TorchScript's alone
    lambda x, y: torch.where(x > y, x, y),
    lambda x, y: x + torch.rand(SHAPE),
    lambda x, y: x - torch.empty_like(y).exponential_(),
)


def _written_in_place(x: Tensor, y: Tensor) -> Tensor:
    buffer = x.new_empty(2, *SHAPE)
    buffer[0], buffer[1, :, 1:] = x, y[:, 1:]
    buffer[1, :, :1] = 7.0
    return buffer.sum(0)


def expect_the_same(
    tape: OperationTape, function: Callable[..., Sequence[Tensor]], *inputs: Tensor
) -> None:
    torch.manual_seed(5)
    expected = function(*inputs)
    torch.manual_seed(5)
    for found, wanted in zip(tape(*inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@settings(max_examples=40, deadline=None)
@given(
    program=st.lists(
        st.tuples(st.sampled_from(STEPS), st.integers(0, 9), st.integers(0, 9)), max_size=12
    )
)
def test_any_program_is_replayed_to_the_bit(program):
    def function(x: Tensor, y: Tensor) -> list[Tensor]:
        made = [x, y]
        for step, one, other in program:
            made.append(step(made[one % len(made)], made[other % len(made)]))
        return [made[-1], made[len(made) // 2]]

    tape = OperationTape(function, torch.randn(SHAPE), torch.randn(SHAPE))
    for _ in range(2):
        expect_the_same(tape, function, torch.randn(SHAPE), torch.randn(SHAPE))


def test_memory_is_used_again():
    """A hundred steps of a loop hold two of their hundred results at a time."""

    def function(x: Tensor) -> list[Tensor]:
        for _ in range(100):
            x = (x + 1).sin()
        return [x]

    tape = OperationTape(function, torch.zeros(1000))
    assert tape._outputs[0].untyped_storage().nbytes() < 3 * 4 * 1024
    expect_the_same(tape, function, torch.randn(1000))


def test_results_are_the_callers():
    tape = OperationTape(lambda x: (x, x * 2), torch.ones(3))
    first = tape(torch.ones(3))
    first[0].zero_()
    second = tape(torch.full((3,), 5.0))
    assert torch.equal(first[1], torch.full((3,), 2.0))
    assert torch.equal(second[0], torch.full((3,), 5.0))


def test_reads_weights_where_they_lie():
    weight = torch.nn.Parameter(torch.ones(3))
    tape = OperationTape(lambda x: [x * weight], torch.ones(3))
    with torch.no_grad():
        weight.mul_(4)
    assert torch.equal(tape(torch.ones(3))[0], torch.full((3,), 4.0))
    assert not tape(torch.ones(3))[0].requires_grad


def test_recorded_and_replayed_in_inference_mode():
    with torch.inference_mode():
        tape = OperationTape(lambda x: [x + 1], torch.ones(3))
        tape(torch.ones(3))
    tape(torch.ones(3))[0].add_(1)  # not an inference tensor


def test_recording_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    OperationTape(lambda x: [x + torch.rand(3)], torch.ones(3))
    assert torch.equal(torch.get_rng_state(), before)


def test_recording_reseeds_no_other_generator(monkeypatch: pytest.MonkeyPatch):
    """`torch.manual_seed` would seed those of all GPUs."""
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    OperationTape(lambda x: [x + torch.rand(3)], torch.ones(3))
    assert seeded == []


def test_recorded_where_another_device_is_the_default():
    inputs = torch.ones(2), torch.tensor([True, False])
    with torch.device("meta"):
        tape = OperationTape(lambda x, y: [torch.where(y, x + 1, x)], *inputs)
        assert tape(*inputs)[0].tolist() == [2.0, 1.0]


def test_a_mask_that_the_host_reads_is_noticed():
    def function(x: Tensor, mask: Tensor) -> list[Tensor]:
        return [x * int(mask.numpy().sum())]

    with pytest.raises(TapeError, match="other values"):
        OperationTape(function, torch.randn(4), torch.ones(4, dtype=torch.bool))


@pytest.mark.parametrize(
    "change",
    [lambda y: y.t_(), lambda y: y.unsqueeze_(0), lambda y: y.resize_(2, 6)],
)
def test_a_shape_changed_in_place_is_refused(change):
    def function(x: Tensor) -> list[Tensor]:
        y = x + 1
        change(y)
        return [y * 2]

    with pytest.raises(TapeError, match="shape in place"):
        OperationTape(function, torch.randn(SHAPE))


def test_a_shape_changed_in_place_to_the_same_is_replayed():
    def function(x: Tensor) -> list[Tensor]:
        y = (x + 1).unsqueeze(0).unsqueeze(0)
        y.transpose_(0, 1).resize_(1, 1, *SHAPE)
        return [y * 2]

    tape = OperationTape(function, torch.randn(SHAPE))
    for _ in range(3):
        expect_the_same(tape, function, torch.randn(SHAPE))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: [x * x.sum().item()], "_local_scalar_dense"),
        (lambda x: [x if x.sum() > 0 else -x], "waits for a tensor's values"),
        (lambda x: [x[x > 0]], "aten.index.Tensor waits"),
        (lambda x: [x.nonzero()], "aten.nonzero.default waits"),
        (lambda x: [x + torch.from_numpy(x.numpy() ** 2)], "other values"),
        (lambda x: [x * torch.from_numpy(x.numpy().round())], "other values"),
        (lambda x: [x + math.fsum(x.tolist())], "_local_scalar_dense|other values"),
    ],
)
def test_what_the_host_computes_is_refused(function, words: str):
    with pytest.raises(TapeError, match=words):
        OperationTape(function, torch.rand(3) + 0.1)
