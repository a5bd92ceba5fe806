"""The normaliser and the scales of change: closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict

from torchrl_td.data import Normalizer, displacement_scale
from torchrl_td.errors import InputError


def dataset(observation: torch.Tensor, lengths: list[int] | None = None) -> TensorDict:
    count = len(observation)
    lengths = lengths or [count]
    episode = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return TensorDict(
        observation=observation,
        returns_to_go=torch.rand(count, 1),
        episode=episode,
        next=TensorDict(
            observation=observation + 1, returns_to_go=torch.rand(count, 1), batch_size=[count]
        ),
        batch_size=[count],
    )


def test_fit_closed_form() -> None:
    """0, 1, ..., n - 1 has mean (n - 1) / 2 and variance (n² - 1) / 12."""
    n = 101
    x = torch.arange(n).float()
    normalizer = Normalizer.fit(dataset(torch.stack([x, -3 * x + 7, 0 * x + 5], -1)), 10.0)
    std = math.sqrt((n**2 - 1) / 12)
    assert torch.allclose(normalizer.loc, torch.tensor([50.0, -143.0, 5.0]))
    assert torch.allclose(normalizer.scale, torch.tensor([std, 3 * std, 1.0]))  # constant: 1
    assert normalizer.returns_scale == 10


def test_there_must_be_something_to_fit_on() -> None:
    with pytest.raises(InputError, match="no steps to fit"):
        Normalizer.fit(dataset(torch.zeros(3, 2))[:0])


def test_fit_keeps_digits_far_from_zero() -> None:
    """Sums in double precision: a mean of 10,000 with a spread of 0.01."""
    x = 1e4 + torch.tensor([0.0, 0.0078125]).repeat(50_000).unsqueeze(-1)
    normalizer = Normalizer.fit(dataset(x))
    assert normalizer.scale.item() == pytest.approx(0.00390625, rel=1e-4)


@given(st.integers(2, 50), st.integers(1, 5), st.floats(0.01, 100), st.floats(-100, 100), st.data())
def test_normalised_data_is_standard_and_comes_back(count, width, spread, centre, data) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    x = torch.randn(count, width, generator=generator) * spread + centre
    x[0] += spread  # no column is constant
    normalizer = Normalizer.fit(dataset(x))
    normalized = normalizer.normalize(x).double()
    digits = 1e-5 * (1 + abs(centre) / spread)
    assert torch.allclose(normalized.mean(0), torch.zeros(width).double(), atol=100 * digits)
    std = normalized.std(0, correction=0)
    assert torch.allclose(std, torch.ones(width).double(), atol=100 * digits)
    assert torch.allclose(normalizer.denormalize(normalizer.normalize(x)), x, rtol=1e-5, atol=1e-4)


def test_apply_to_leaves_the_dataset_as_it_was() -> None:
    data = dataset(torch.randn(20, 3) * 5 + 2)
    before = data.clone()
    normalizer = Normalizer.fit(data, returns_scale=4.0)
    out = normalizer.apply_to(data)
    for key in data.keys(True, True):
        assert torch.equal(data[key], before[key]), key
    for prefix in ((), ("next",)):
        observation, returns = (*prefix, "observation"), (*prefix, "returns_to_go")
        want = (data[observation] - normalizer.loc) / normalizer.scale
        assert torch.allclose(out[observation], want)
        assert torch.allclose(out[returns], data[returns] / 4)
    assert torch.equal(out["episode"], data["episode"])


def test_next_states_are_normalised_with_the_same_statistics() -> None:
    data = dataset(torch.randn(20, 3))
    out = Normalizer.fit(data).apply_to(data)
    scale = Normalizer.fit(data).scale
    assert torch.allclose(
        out["next", "observation"] - out["observation"], (1 / scale).expand(20, 3), atol=1e-5
    )


def test_state_dict_holds_it_all() -> None:
    source = Normalizer(torch.randn(3), torch.rand(3) + 0.5, 7.0)
    target = Normalizer(torch.zeros(3), torch.ones(3))
    target.load_state_dict(source.state_dict())
    x = torch.randn(4, 3)
    assert torch.equal(source.normalize(x), target.normalize(x))
    assert torch.equal(source.scale_returns(x), target.scale_returns(x))


@pytest.mark.parametrize(
    ("loc", "scale", "returns_scale", "named"),
    [
        (math.nan, 1.0, 1.0, "not finite"),
        (0.0, math.inf, 1.0, "not finite"),
        (0.0, 1.0, 0.0, "returns_scale"),
        (0.0, 1.0, -2.0, "returns_scale"),
        (0.0, 1.0, math.nan, "returns_scale"),
    ],
)
def test_bad_values(loc: float, scale: float, returns_scale: float, named: str) -> None:
    with pytest.raises(InputError, match=named) as error:
        Normalizer(torch.tensor([loc]), torch.tensor([scale]), returns_scale)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("unit", [1e-9, 1e-7, 1.0, 1e7])
def test_any_unit_is_normalised(unit: float, warned: list[str]) -> None:
    """Also where all states are tiny: a dimension is small beside the others, not by itself."""
    x = unit * torch.rand(500, 3) * torch.tensor([1.0, 1e-2, 1e2])
    std = Normalizer.fit(dataset(x)).normalize(x).std(0, correction=0)
    assert torch.allclose(std, torch.ones(3), rtol=1e-3)
    assert warned == []


def test_what_is_only_rounding_is_taken_as_constant(warned: list[str]) -> None:
    """The last bit of a large number, without a word, and a resting part's tremor."""
    last_bit = torch.tensor([1.7e9, 1.7e9 + 128]).repeat(250)
    tremor = 1e-9 * torch.randn(500)
    x = torch.stack([torch.randn(500), last_bit, 2 * torch.randn(500), 5 + 0 * tremor], -1)
    assert Normalizer.fit(dataset(x)).scale[[1, 3]].tolist() == [1.0, 1.0]
    assert warned == []
    for _ in range(2):
        scale = Normalizer.fit(dataset(torch.cat([x, tremor.unsqueeze(-1)], -1))).scale
    assert scale[4] == 1 and (scale[[0, 2]] != 1).all()
    (line,) = warned
    assert "in dimension 4 by less than 1e-06 of what others change by" in line


def test_data_that_never_changes_is_left_as_it_is() -> None:
    assert Normalizer.fit(dataset(torch.full((9, 2), 3.0))).scale.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("scale", [2e-3, 3.0, 200.0])
def test_a_returns_scale_that_fits(scale: float, warned: list[str]) -> None:
    data = dataset(torch.randn(20, 3))
    data["returns_to_go"] *= scale / data["returns_to_go"].max()
    Normalizer.fit(data, scale)
    data["returns_to_go"] *= 0  # there is nothing to scale
    Normalizer.fit(data, scale)
    assert warned == []


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_a_returns_scale_that_does_not_fit(scale: float, warned: list[str]) -> None:
    data = dataset(torch.randn(20, 3))
    data["returns_to_go"] *= -1600.0 / data["returns_to_go"].max()
    Normalizer.fit(data, scale)
    (line,) = warned
    assert line.startswith(f"task.returns_scale={scale:g} makes {1600 / scale:.3g} of the data's")
    assert "take 1000, for 1 to 4" in line
    with pytest.raises(InputError, match=r"task\.returns_scale=1e-30 makes 1\.6e"):
        Normalizer.fit(data, 1e-30)


def test_nan_in_the_data_is_refused() -> None:
    x = torch.randn(10, 2)
    x[3, 1] = math.nan
    with pytest.raises(InputError, match="NaN"):
        Normalizer.fit(dataset(x))


# --- displacement_scale ----------------------------------------------------------------------


def test_displacement_of_a_straight_walk() -> None:
    """At c a step the displacement after j steps is exactly j c, whatever the start."""
    time = torch.cat([torch.arange(n) for n in (30, 9, 61)]).float()
    x = torch.stack([0.5 * time, -2 * time, 0 * time + 3], -1)
    scale = displacement_scale(dataset(x, [30, 9, 61]), horizon=8)
    lag = torch.arange(8).float()
    assert torch.allclose(scale, torch.stack([0.5 * lag, 2 * lag, 0 * lag], -1), atol=1e-5)
    strided = displacement_scale(dataset(x, [30, 9, 61]), horizon=4, stride=2)
    assert torch.allclose(strided, scale[::2], atol=1e-5)


def test_displacement_at_the_end_of_the_data() -> None:
    """Steps with fewer than j after them are left out, the dataset's last ones too."""
    x = torch.arange(10).float().unsqueeze(-1)
    scale = displacement_scale(dataset(x), horizon=8)
    assert torch.allclose(scale.flatten(), torch.arange(8).float(), atol=1e-5)


@given(st.integers(0, 10**6), st.lists(st.integers(6, 30), min_size=1, max_size=4))
def test_displacement_against_all_pairs(seed: int, lengths: list[int]) -> None:
    """The root mean square over all pairs of an episode, estimated from random starts."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(lengths), 1, generator=generator)
    scale = displacement_scale(dataset(x, lengths), horizon=4, samples=20_000, seed=seed)
    parts = x.split(lengths)
    for lag in range(4):
        change = torch.cat([p[lag:] - p[: len(p) - lag] for p in parts])
        assert scale[lag].item() == pytest.approx(change.square().mean().sqrt().item(), rel=0.06)


def test_displacement_is_repeatable_and_follows_its_seed() -> None:
    data = dataset(torch.randn(200, 2), [120, 80])
    state = torch.get_rng_state()
    a = displacement_scale(data, 5, samples=100, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(a, displacement_scale(data, 5, samples=100, seed=1))
    assert not torch.equal(a, displacement_scale(data, 5, samples=100, seed=2))


def test_displacement_past_the_longest_episode_repeats_the_last() -> None:
    x = torch.arange(4).float().unsqueeze(-1)
    scale = displacement_scale(dataset(x), horizon=8)
    assert scale.flatten().tolist() == pytest.approx([0, 1, 2, 3, 3, 3, 3, 3])
