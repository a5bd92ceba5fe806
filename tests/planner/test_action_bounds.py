"""Bounds of an action from whatever spec TorchRL gives of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchrl.data import Bounded, Composite, OneHot, Unbounded

from torchrl_td.actors.specs import action_bounds
from torchrl_td.errors import InputError

LOW, HIGH = torch.tensor([-1.0, -2.0]), torch.tensor([3.0, 4.0])
SPEC = Bounded(LOW, HIGH)


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        SPEC.expand(3, 2),  # of several environments at once
        SPEC.expand(4, 3, 2),
        Composite(action=SPEC),
        Composite(action=SPEC.expand(3, 2), other=Unbounded((3, 1)), shape=(3,)),
        Composite(agent=Composite(move=SPEC)),  # the only one there is
        Bounded(LOW.double(), HIGH.double()),
    ],
)
def test_bounds(spec: Any) -> None:
    low, high = action_bounds(spec, "action", 2)
    torch.testing.assert_close(low, LOW, rtol=0, atol=0)
    torch.testing.assert_close(high, HIGH, rtol=0, atol=0)


def test_nested_key_and_unknown_width() -> None:
    spec = Composite(agent=Composite(action=SPEC), other=Bounded(-9.0, 9.0, (3,)))
    assert torch.equal(action_bounds(spec, ("agent", "action"), None)[0], LOW)


def test_an_action_without_bounds_is_not_clipped() -> None:
    low, high = action_bounds(Unbounded((2,)), "action", 2)
    value = torch.tensor([1e30, -1e30])
    assert torch.equal(value.clamp(low, high), value)


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (OneHot(2), "action_spec is OneHot, but the planner's actions are real numbers"),
        (Bounded(0, 3, (2,), dtype=torch.int64), "real numbers"),
        ("Box(-1, 1)", "action_spec is str"),
        (Bounded(-1.0, 1.0, (3,)), "of 3 numbers, but the planner's action has 2"),
        (Bounded(-1.0, 1.0, (1,)), "of 1 numbers"),
        (Composite(a=SPEC, b=SPEC), "has no entry 'action', only 'a', 'b'"),
        (Composite(), "no entry 'action'"),
        (Bounded(torch.stack([LOW, LOW - 1]), torch.stack([HIGH, HIGH])), "some environments"),
    ],
)
def test_what_gives_no_bounds(spec: Any, named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        action_bounds(spec, "action", 2)
    assert "\n" not in str(caught.value)
