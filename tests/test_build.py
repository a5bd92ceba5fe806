"""The parts from settings: whatever number is given, a plan or one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest
import torch
from tensordict import TensorDict

from tests.settings import TINY_RUN, composed
from torchrl_td.checkpoint import build
from torchrl_td.checkpoint.build import build_model, sampler_settings
from torchrl_td.config import Config, override_config
from torchrl_td.data import Normalizer
from torchrl_td.errors import InputError
from torchrl_td.modules.trajectory_diffuser import Scales

VALUES = ["0", "-1", "nan", "1" + 24 * "0"]
SECTIONS = ("task", "generator", "refiner", "inverse_dynamics", "critic", "planner")


def numeric(kind: Any = Config, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Every setting that is a number or a list of them, and whether it is a list."""
    for name, hint in get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            yield from numeric(hint, f"{prefix}{name}.")
        elif "int" in str(hint) or "float" in str(hint):
            yield prefix + name, "list" in str(hint)


@pytest.fixture(scope="module")
def tiny() -> Config:
    return composed(*TINY_RUN, "critic.enabled=true", "critic.hidden_dims=[8]")


def plan(config: Config) -> list[torch.Tensor | None]:
    normalizer = Normalizer(torch.zeros(3), torch.ones(3), config.task.returns_scale)
    scales = Scales.empty(config.task.horizon, 3)
    model = build_model(config, 3, 2, normalizer, scales)
    history = torch.randn(1, 7, 3), torch.rand(1, 7, 1), torch.ones(1, 7, dtype=torch.bool)
    with torch.no_grad():
        planner = model.planner(
            candidates=config.planner.candidates, **sampler_settings(config.planner)
        )
        return list(planner.plan(*history))


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_scales_of_plans_with_a_stride(stride: int) -> None:
    """Returns-to-go that fall as t³, and no pair across two episodes."""
    lengths = torch.tensor([9, 30])
    time = torch.cat([torch.arange(int(n)) for n in lengths]).double()
    episode = torch.arange(2).repeat_interleave(lengths)
    returns = 1000.0 * episode - time**3
    data = TensorDict(
        observation=time.float().unsqueeze(-1),
        returns_to_go=returns.float().unsqueeze(-1),
        episode=episode,
        next={"returns_to_go": (1000.0 * episode - (time + 1) ** 3).float().unsqueeze(-1)},
        batch_size=[39],
    )
    scales = Scales.fit(data, 2, stride)
    start = time[time + stride <= lengths[episode]]
    want = ((start + stride) ** 3 - start**3).square().mean().sqrt()
    assert scales.returns_change.item() == pytest.approx(want.item(), rel=1e-5)
    assert scales.displacement.flatten().tolist() == pytest.approx([0, stride])


@pytest.mark.parametrize(
    ("key", "listed"), [pair for pair in numeric() if pair[0].partition(".")[0] in SECTIONS]
)
def test_any_number_plans_or_is_refused(key: str, listed: bool, tiny: Config) -> None:
    values = [f"[{value}]" for value in VALUES] + ["[]", "3"] if listed else VALUES
    for value in values:
        try:
            out = plan(override_config(tiny, [f"{key}={value}"]))
        except InputError as error:
            assert str(error) and "\n" not in str(error), value
        else:
            assert all(part is None or part.isfinite().all() for part in out), value


def test_networks_that_memory_cannot_hold(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory:\n51 GB")

    monkeypatch.setattr(build, "TemporalUNet", full)
    with pytest.raises(
        InputError, match=r"not fit into memory .*; lower generator\.width"
    ) as caught:
        plan(tiny)
    assert "\n" not in str(caught.value)


def test_other_errors_are_not_taken_for_it(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(build, "TemporalUNet", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        plan(tiny)
