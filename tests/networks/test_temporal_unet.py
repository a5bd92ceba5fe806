"""The temporal U-Net: shapes, size, what the condition does, what a plan's entries see."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from torchrl_td.errors import InputError
from torchrl_td.networks import TemporalUNet


def inputs(batch: int, horizon: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    step = torch.randint(1, 101, (batch,))
    return torch.randn(batch, horizon, width), step, torch.rand(batch, 1)


@settings(max_examples=25)
@given(
    observation=st.integers(1, 13),
    multipliers=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    kernel=st.sampled_from([1, 3, 5, 7]),
    groups=st.sampled_from([1, 2, 4, 8]),
    embedding=st.sampled_from([4, 10, 64]),
    batch=st.integers(1, 5),
    times=st.integers(1, 5),
)
def test_shapes(observation, multipliers, kernel, groups, embedding, batch, times) -> None:
    network = TemporalUNet(
        observation,
        channels=8,
        multipliers=multipliers,
        kernel_size=kernel,
        groups=groups,
        embedding_dim=embedding,
        embedding_hidden_dim=7,
    )
    assert network.horizon_multiple == 2 ** (len(multipliers) - 1)
    x, step, condition = inputs(batch, times * network.horizon_multiple, observation)
    out = network(x, step, condition)
    assert out.shape == x.shape and out.isfinite().all()


@pytest.mark.parametrize("horizon", [8, 16, 24, 32, 40, 64, 128])
def test_every_horizon_of_the_paper(horizon: int) -> None:
    network = TemporalUNet(3, channels=8)
    x, step, condition = inputs(2, horizon, 3)
    assert network(x, step, condition).shape == (2, horizon, 3)


def test_parameter_count_of_the_paper() -> None:
    """Hopper: 11 state dimensions, about 16.0 million parameters."""
    count = sum(p.numel() for p in TemporalUNet(11).parameters())
    assert count == pytest.approx(16.0e6, rel=0.01)


def test_a_dropped_condition_is_the_zero_embedding() -> None:
    network = TemporalUNet(3, channels=16, multipliers=(1, 2))
    x, step, condition = inputs(4, 8, 3)
    keep = torch.tensor([True, False, True, False])
    mixed = network(x, step, condition, keep)
    zero = torch.zeros(4, network.embedding_dim)
    without = network.denoise(x, network.embed_step(step), zero)
    given_ = network(x, step, condition)
    assert torch.allclose(mixed[1::2], without[1::2], atol=1e-6)
    assert torch.allclose(mixed[::2], given_[::2], atol=1e-6)
    assert (given_ - without).abs().max() > 1e-3  # so that the above says something
    # Where it is dropped its value is not seen, and no gradient reaches the condition's MLP.
    assert torch.equal(network(x, step, condition + 5, keep)[1::2], mixed[1::2])
    network(x, step, condition, torch.zeros(4, dtype=torch.bool)).sum().backward()
    assert all(p.grad.abs().max() == 0 for p in network.condition_mlp.parameters())


def test_step_and_condition_matter() -> None:
    network = TemporalUNet(3, channels=16, multipliers=(1, 2))
    x, step, condition = inputs(4, 8, 3)
    out = network(x, step, condition)
    assert (network(x, step % 100 + 1, condition) - out).abs().max() > 1e-4
    assert (network(x, step, condition + 1) - out).abs().max() > 1e-4


def test_step_embedding_is_sinusoidal() -> None:
    network = TemporalUNet(3, channels=16, multipliers=(1,), embedding_dim=6)
    angle = torch.tensor([[7.0]]) * torch.tensor([1.0, 10_000**-0.5, 10_000**-1.0])
    want = network.step_mlp(torch.cat([angle.sin(), angle.cos()], -1))
    assert torch.allclose(network.embed_step(torch.tensor([7])), want, atol=1e-6)
    assert torch.equal(
        network.embed_step(torch.tensor([7.0])), network.embed_step(torch.tensor([7]))
    )


def test_rows_do_not_see_each_other() -> None:
    network = TemporalUNet(3, channels=16, multipliers=(1, 2))
    x, step, condition = inputs(5, 8, 3)
    together = network(x, step, condition)
    for row in range(5):
        rows = slice(row, row + 1)
        alone = network(x[rows], step[rows], condition[rows])
        assert torch.allclose(together[rows], alone, atol=1e-5)


def test_one_level_against_a_hand_written_one() -> None:
    """With one level there is no skip or resampling, and the network is short to write."""
    network = TemporalUNet(2, channels=8, multipliers=(1,), kernel_size=3, groups=2).double()
    x, _, condition = inputs(3, 5, 2)
    x, condition = x.double(), condition.double()
    weights = dict(network.named_parameters())

    def conv(x: torch.Tensor, name: str) -> torch.Tensor:
        """The definition: every output position is a sum over taps and channels."""
        weight, bias = weights[name + ".conv.weight"], weights[name + ".conv.bias"]
        padded = F.pad(x, (1, 1))
        columns = [
            torch.einsum("bck,ock->bo", padded[:, :, t : t + 3], weight) + bias for t in range(5)
        ]
        x = torch.stack(columns, -1)
        grouped = x.view(3, 2, -1)
        mean, var = grouped.mean(-1, keepdim=True), grouped.var(-1, correction=0, keepdim=True)
        x = ((grouped - mean) / (var + 1e-5).sqrt()).view(3, -1, 5)
        x = x * weights[name + ".norm.weight"][:, None] + weights[name + ".norm.bias"][:, None]
        return x * torch.tanh(F.softplus(x))

    def block(x: torch.Tensor, name: str) -> torch.Tensor:
        e = F.linear(
            embedding, weights[name + ".embedding.weight"], weights[name + ".embedding.bias"]
        )
        hidden = conv(conv(x, name + ".first") + e[:, :, None], name + ".second")
        if name + ".skip.weight" in weights:
            x = torch.einsum("bct,oc->bot", x, weights[name + ".skip.weight"][..., 0])
            x = x + weights[name + ".skip.bias"][:, None]
        return hidden + x

    with torch.no_grad():
        step_embedding = torch.randn(3, network.embedding_dim, dtype=torch.float64)
        embedding = torch.cat([step_embedding, network.condition_mlp(condition)], -1)
        embedding = embedding * torch.tanh(F.softplus(embedding))
        want = x.transpose(1, 2)
        for name in ("down.0.0", "down.0.1", "middle.0", "middle.1"):
            want = block(want, name)
        want = conv(want, "final_block")
        want = torch.einsum("bct,oc->bot", want, weights["final.weight"][..., 0])
        want = (want + weights["final.bias"][:, None]).transpose(1, 2)
        got = network.denoise(x, step_embedding, network.embed_condition(condition))
    assert torch.allclose(got, want, atol=1e-9)


@pytest.mark.parametrize(
    ("settings_", "named"),
    [
        ({"kernel_size": 4}, "kernel_size"),
        ({"channels": 12}, "groups=8"),
        ({"embedding_dim": 7}, "embedding_dim"),
        ({"embedding_dim": 2}, "embedding_dim"),
        ({"multipliers": ()}, "multipliers"),
    ],
)
def test_bad_settings(settings_: dict, named: str) -> None:
    with pytest.raises(InputError, match=named) as error:
        TemporalUNet(3, **settings_)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("horizon", [1, 2, 4, 6, 9])
def test_a_horizon_it_cannot_take(horizon: int) -> None:
    network = TemporalUNet(3, channels=8)
    with pytest.raises(InputError, match="divisible by 8"):
        network(*inputs(2, horizon, 3))


def test_every_parameter_gets_a_gradient() -> None:
    network = TemporalUNet(3, channels=8, multipliers=(1, 2, 4))
    network(*inputs(4, 8, 3)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
