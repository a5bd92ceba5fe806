"""Transformer, GRU and LSTM: causality, padding, and one step at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from torchrl_td.errors import InputError
from torchrl_td.networks import RecurrentTrajectoryModel, TrajectoryTransformer

O = 3  # noqa: E741
LENGTH = 12
KINDS = ("transformer", "gru", "lstm")


def make(kind: str, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    if kind == "transformer":
        network = TrajectoryTransformer(O, LENGTH, width=32, layers=2, heads=2, **kwargs)
        # Positions are told apart from the first step of training on only if this is not tiny.
        nn.init.normal_(network.embed_position)
        return network
    return RecurrentTrajectoryModel(O, kind, width=32, layers=2)


def window(batch: int = 2, length: int = LENGTH) -> tuple[Tensor, Tensor, Tensor]:
    mask = torch.ones(batch, length, dtype=torch.bool)
    return torch.randn(batch, length, O), torch.rand(batch, length, 1), mask


def influence(network: nn.Module, mask: Tensor) -> Tensor:
    """[T, T]: whether the prediction at a position (row) depends on an input (column)."""
    observation, returns, _ = window(1)
    observation.requires_grad_()
    returns.requires_grad_()
    state, returns_out = network(observation, returns, mask)
    rows = []
    for t in range(LENGTH):
        total = (state[0, t] * torch.randn(O)).sum() + returns_out[0, t].sum()
        grads = torch.autograd.grad(total, (observation, returns), retain_graph=True)
        rows.append(sum(g[0].abs().sum(-1) for g in grads) > 0)
    return torch.stack(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_causality_by_gradient(kind: str) -> None:
    network = make(kind)
    assert network.causal
    got = influence(network, torch.ones(1, LENGTH, dtype=torch.bool))
    # Exactly the lower triangle: nothing later is seen and everything earlier is.
    assert torch.equal(got, torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril())


@pytest.mark.parametrize("kind", KINDS)
def test_causality_by_gradient_with_padding_at_both_ends(kind: str) -> None:
    first, last = 3, 8
    mask = torch.zeros(1, LENGTH, dtype=torch.bool)
    mask[:, first : last + 1] = True
    got = influence(make(kind), mask)[first : last + 1]
    want = torch.zeros(last + 1 - first, LENGTH, dtype=torch.bool)
    want[:, first : last + 1] = torch.ones(last + 1 - first, last + 1 - first).tril().bool()
    assert torch.equal(got, want)


def test_without_the_mask_a_position_sees_its_target() -> None:
    network = make("transformer", causal=False)
    assert not network.causal
    assert influence(network, torch.ones(1, LENGTH, dtype=torch.bool)).all()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(
    first=st.integers(0, LENGTH - 1), real=st.integers(1, LENGTH), value=st.sampled_from([0, 1e6])
)
def test_padding_does_not_matter(kind: str, first: int, real: int, value: float) -> None:
    """Neither its values nor how much there is of it."""
    network = make(kind)
    observation, returns, mask = window()
    last = min(first + real, LENGTH)
    mask[:, :first] = False
    mask[:, last:] = False
    with torch.no_grad():
        got = network(observation, returns, mask)
        garbage = ~mask.unsqueeze(-1)
        other = network(
            observation.masked_fill(garbage, value), returns.masked_fill(garbage, -value), mask
        )
        cut = slice(first, last)
        alone = network(observation[:, cut], returns[:, cut], mask[:, cut])
    for a, b, c in zip(got, other, alone, strict=True):
        assert torch.allclose(a[:, cut], b[:, cut], atol=1e-5)
        assert torch.allclose(a[:, cut], c, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(history=st.integers(1, LENGTH - 1), data=st.data(), batch=st.integers(1, 4))
def test_one_step_at_a_time_is_the_whole_at_once(kind: str, history: int, data, batch) -> None:
    """Rows of different history lengths, side by side."""
    network = make(kind)
    observation, returns, mask = window(batch)
    real = data.draw(st.lists(st.integers(1, history), min_size=batch, max_size=batch))
    for row, count in enumerate(real):
        mask[row, : history - count] = False
    steps = LENGTH - history
    with torch.no_grad():
        whole = network(observation, returns, mask)
        part = (x[:, :history] for x in (observation, returns, mask))
        state, returns_out, cache = network.start(*part, steps)
        for t in range(history - 1, LENGTH):
            assert torch.allclose(state, whole[0][:, t], atol=1e-5)
            assert torch.allclose(returns_out, whole[1][:, t], atol=1e-5)
            if t + 1 < LENGTH:
                state, returns_out, cache = network.step(
                    observation[:, t + 1], returns[:, t + 1], cache
                )


@pytest.mark.parametrize("kind", KINDS)
def test_both_inputs_and_the_order_matter(kind: str) -> None:
    network = make(kind)
    observation, returns, mask = window()
    with torch.no_grad():
        state = network(observation, returns, mask)[0][:, -1]
        for other in (
            network(observation, returns + 1, mask),
            network(observation + 1, returns, mask),
            network(observation[:, [1, 0, *range(2, LENGTH)]], returns, mask),
        ):
            assert (other[0][:, -1] - state).abs().max() > 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind: str) -> None:
    network = make(kind)
    state, returns = network(*window())
    (state.square().sum() + returns.square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_parameter_count_of_the_paper() -> None:
    """Hopper: 11 state dimensions, horizon 16; the authors' has 6.6 million parameters."""
    count = sum(p.numel() for p in TrajectoryTransformer(11, 30).parameters())
    assert 6.3e6 < count < 6.7e6


@pytest.mark.parametrize(("layers", "feedforward"), [(1, None), (3, 48)])
def test_shapes_of_other_settings(layers: int, feedforward: int | None) -> None:
    network = TrajectoryTransformer(5, 9, 24, layers, 3, feedforward)
    mask = torch.ones(7, 4, dtype=torch.bool)
    state, returns = network(torch.randn(7, 4, 5), torch.rand(7, 4, 1), mask)
    assert state.shape == (7, 4, 5) and returns.shape == (7, 4, 1)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: TrajectoryTransformer(3, 8, width=33), "divisible by 2"),
        (lambda: TrajectoryTransformer(3, 8, width=32, heads=5), "by 5"),
        (lambda: RecurrentTrajectoryModel(3, "rnn"), "gru, lstm"),
        (lambda: RecurrentTrajectoryModel(3, width=33), "even"),
    ],
)
def test_bad_settings(build, named: str) -> None:
    with pytest.raises(InputError, match=named) as error:
        build()
    assert "\n" not in str(error.value)
