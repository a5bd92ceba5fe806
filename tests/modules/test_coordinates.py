"""The coordinates of the diffusion: closed forms and round trips."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchrl_td.errors import InputError
from torchrl_td.modules import PlanCoordinates


def some(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(
    batch=st.integers(1, 4),
    horizon=st.integers(1, 9),
    width=st.integers(1, 5),
    seed=st.integers(0, 10**6),
    magnitude=st.sampled_from([1e-3, 1.0, 10.0]),
)
def test_round_trip(batch: int, horizon: int, width: int, seed: int, magnitude: float) -> None:
    plan = some((batch, horizon, width), seed)
    scale = magnitude * (some((horizon, width), seed + 1).abs() + 0.1)
    coordinates = PlanCoordinates(scale)
    assert torch.allclose(coordinates.decode(coordinates.encode(plan)), plan, atol=1e-5)
    x = some((batch, horizon, width), seed + 2)
    # Large coordinates of a small scale lose digits beside the present state.
    assert torch.allclose(
        coordinates.encode(coordinates.decode(x)), x, atol=1e-6 / magnitude + 1e-5
    )


def test_closed_form() -> None:
    plan, scale = some((2, 4, 3), 0), some((4, 3), 1).abs() + 0.1
    x = PlanCoordinates(scale).encode(plan)
    assert torch.equal(x[:, 0], plan[:, 0])
    for j in range(1, 4):
        assert torch.allclose(x[:, j], (plan[:, j] - plan[:, 0]) / scale[j], atol=1e-6)


def test_without_a_scale_it_is_the_plan() -> None:
    plan = some((2, 4, 3), 0)
    coordinates = PlanCoordinates()
    assert torch.equal(coordinates.encode(plan), plan)
    assert torch.equal(coordinates.decode(plan), plan)
    assert coordinates.state_dict() == {}


def test_constant_dimensions_are_held() -> None:
    """Whatever the sampler makes of them, they keep the present state's value."""
    scale = torch.ones(4, 3)
    scale[:, 1] = 0
    coordinates = PlanCoordinates(scale)
    plan = some((2, 4, 3), 0)
    assert coordinates.encode(plan)[:, 1:, 1].abs().max() == 0
    decoded = coordinates.decode(some((2, 4, 3), 1))
    assert torch.equal(decoded[:, :, 1], decoded[:, :1, 1].expand(-1, 4))


def test_a_loaded_scale_is_used() -> None:
    """Encoding multiplies by a scale's inverse; the inverse must be that of the scale loaded."""
    source, target = PlanCoordinates(torch.full((4, 3), 2.0)), PlanCoordinates(torch.ones(4, 3))
    target.load_state_dict(source.state_dict())
    plan = some((2, 4, 3), 0)
    assert torch.equal(target.encode(plan), source.encode(plan))
    assert torch.allclose(target.decode(target.encode(plan)), plan, atol=1e-6)


def test_a_scale_that_is_no_matrix() -> None:
    with pytest.raises(InputError, match=r"\[H, O\]"):
        PlanCoordinates(torch.ones(3))
