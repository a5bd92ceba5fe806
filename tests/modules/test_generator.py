"""The generator: a cached draft is the uncached one, whatever stood in the padding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import Tensor, nn

from torchrl_td.errors import InputError
from torchrl_td.modules import TrajectoryGenerator
from torchrl_td.networks import RecurrentTrajectoryModel, TrajectoryTransformer

O = 3  # noqa: E741
KINDS = ("transformer", "gru", "lstm")
CHANGE = torch.tensor([0.1, 0.0, 2.0])


def make(kind: str, predict: str = "state", causal: bool = True) -> TrajectoryGenerator:
    torch.manual_seed(0)
    network: nn.Module
    if kind == "transformer":
        network = TrajectoryTransformer(O, 24, width=32, layers=2, heads=2, causal=causal)
        nn.init.normal_(network.embed_position)
    else:
        network = RecurrentTrajectoryModel(O, kind, width=32, layers=2)
    scales = {"change_scale": CHANGE, "returns_change_scale": 0.05} if predict == "change" else {}
    return TrajectoryGenerator(network, predict=predict, **scales)


def history(batch: int, length: int, real: list[int] | None = None) -> tuple[Tensor, ...]:
    mask = torch.ones(batch, length, dtype=torch.bool)
    for row, count in enumerate(real or []):
        mask[row, : length - count] = False
    return torch.randn(batch, length, O), torch.rand(batch, length, 1), mask


@pytest.mark.parametrize("predict", ["state", "change"])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.data())
def test_cached_is_uncached(kind, predict, length: int, steps: int, batch: int, data) -> None:
    real = data.draw(st.lists(st.integers(1, length), min_size=batch, max_size=batch))
    generator, inputs = make(kind, predict), history(batch, length, real)
    with torch.no_grad():
        draft, returns = generator.generate(*inputs, steps)
        want, want_returns = generator.generate_uncached(*inputs, steps)
    assert draft.shape == (batch, steps + 1, O) and returns.shape == (batch, steps + 1, 1)
    assert torch.allclose(draft, want, atol=1e-5)
    assert torch.allclose(returns, want_returns, atol=1e-5)
    assert torch.equal(draft[:, 0], inputs[0][:, -1])
    assert torch.equal(returns[:, 0], inputs[1][:, -1])


@pytest.mark.parametrize("predict", ["state", "change"])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_matter(kind: str, predict: str) -> None:
    """Every history length from 1 on, padded with anything, is that history alone."""
    generator, length, steps = make(kind, predict), 9, 6
    real = list(range(1, length + 1))
    observation, returns, mask = history(length, length, real)
    with torch.no_grad():
        draft = generator.generate(observation, returns, mask, steps)
        garbage = ~mask.unsqueeze(-1)
        other = generator.generate(
            observation.masked_fill(garbage, 1e6), returns.masked_fill(garbage, -1e6), mask, steps
        )
        assert torch.allclose(draft[0], other[0], atol=1e-5)
        assert torch.allclose(draft[1], other[1], atol=1e-5)
        for row, count in enumerate(real):
            rows = slice(row, row + 1)
            alone = generator.generate(
                observation[rows, -count:], returns[rows, -count:], mask[rows, -count:], steps
            )
            assert torch.allclose(draft[0][rows], alone[0], atol=1e-5)
            assert torch.allclose(draft[1][rows], alone[1], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_draft_feeds_on_its_own_predictions(kind: str) -> None:
    """Appending the draft to the history, the window's predictions are the draft again."""
    generator = make(kind, "change")
    observation, returns, mask = history(2, 5)
    with torch.no_grad():
        draft, draft_returns = generator.generate(observation, returns, mask, 6)
        window = TensorDict(
            observation=torch.cat([observation, draft[:, 1:]], 1),
            returns_to_go=torch.cat([returns, draft_returns[:, 1:]], 1),
            mask=torch.ones(2, 11, dtype=torch.bool),
            batch_size=[2],
        )
        generator(window)
    assert torch.allclose(window["predicted", "observation"][:, 4:10], draft[:, 1:], atol=1e-5)
    assert torch.allclose(
        window["predicted", "returns_to_go"][:, 4:10], draft_returns[:, 1:], atol=1e-5
    )


def test_without_the_mask_the_whole_is_read_anew() -> None:
    generator, inputs = make("transformer", causal=False), history(3, 7, [1, 4, 7])
    with torch.no_grad():
        draft, _ = generator.generate(*inputs, 5)
        want, _ = generator.generate_uncached(*inputs, 5)
        causal = make("transformer").generate(*inputs, 5)[0]
    assert torch.equal(draft, want)
    assert (draft - causal).abs().max() > 1e-4  # same weights, other attention


@pytest.mark.parametrize("predict", ["state", "change"])
def test_targets_and_predictions_are_inverse(predict: str) -> None:
    """A network that hits its targets predicts the true next state."""
    generator = make("transformer", predict)
    observation, returns, _ = history(2, 5)
    next_observation, next_returns, _ = history(2, 5)
    next_observation[..., 1] = observation[..., 1]  # the dimension without a scale never changes

    class Hits(nn.Module):
        causal = True

        def forward(self, *_: Tensor) -> tuple[Tensor, Tensor]:
            return generator.targets(observation, returns, next_observation, next_returns)

    scales = {"change_scale": CHANGE, "returns_change_scale": 0.05} if predict == "change" else {}
    window = TensorDict(
        observation=observation,
        returns_to_go=returns,
        mask=torch.ones(2, 5, dtype=torch.bool),
        batch_size=[2],
    )
    TrajectoryGenerator(Hits(), predict=predict, **scales)(window)
    assert torch.allclose(window["predicted", "observation"], next_observation, atol=1e-5)
    assert torch.allclose(window["predicted", "returns_to_go"], next_returns, atol=1e-5)


def test_a_change_is_added_in_units_of_its_scale() -> None:
    generator = make("gru", "change")
    observation, returns, mask = history(2, 4)
    with torch.no_grad():
        state, value = generator.network(observation, returns, mask)
        draft, draft_returns = generator.generate(observation, returns, mask, 1)
    assert torch.allclose(draft[:, 1], observation[:, -1] + CHANGE * state[:, -1], atol=1e-6)
    assert torch.equal(draft[:, 1, 1], observation[:, -1, 1])
    assert torch.allclose(draft_returns[:, 1], returns[:, -1] + 0.05 * value[:, -1], atol=1e-6)


def test_renamed_and_nested_keys() -> None:
    plain = make("gru")
    renamed = TrajectoryGenerator(
        plain.network,
        in_keys=[("agent", "state"), "rtg", ("info", "real")],
        out_keys=[("out", "state"), "out_rtg"],
    )
    observation, returns, mask = history(2, 5)
    window = TensorDict(
        {
            ("agent", "state"): observation,
            "rtg": returns,
            ("info", "real"): mask,
        },
        batch_size=[2],
    )
    renamed(window)
    want = plain.network(observation, returns, mask)
    assert torch.equal(window["out", "state"], want[0])
    assert torch.equal(window["out_rtg"], want[1])


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"predict": "delta"}, "state, change"),
        ({"predict": "change"}, "change_scale"),
        ({"predict": "change", "change_scale": CHANGE}, "returns_change_scale"),
    ],
)
def test_bad_settings(kwargs: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        TrajectoryGenerator(make("gru").network, **kwargs)
