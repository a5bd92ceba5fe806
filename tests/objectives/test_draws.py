"""What the refiner's loss draws, and its settings."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from tests.objectives.cases import H, O, T, make, record, refiner, seeded, window
from torchrl_td.errors import InputError
from torchrl_td.objectives import DiffusionRefinerLoss


def wide_window(rows: int) -> TensorDict:
    return TensorDict(
        observation=torch.randn(rows, T, O),
        returns_to_go=torch.rand(rows, T, 1),
        mask=torch.ones(rows, T, dtype=torch.bool),
        batch_size=[rows, T],
    )


@pytest.mark.parametrize("dropout", [0.0, 0.25, 0.5, 1.0])
def test_condition_dropout_rate(dropout: float) -> None:
    rows = 2000
    loss = DiffusionRefinerLoss(refiner(), horizon=H, condition_dropout=dropout)
    drawn = record(loss)
    with torch.no_grad():
        loss(wide_window(rows))
    dropped = (~drawn[0][4]).float().mean().item()
    assert dropped == pytest.approx(dropout, abs=4 * (dropout * (1 - dropout) / rows) ** 0.5)


@pytest.mark.parametrize(("max_step", "largest"), [(None, 100), (7, 7), (1, 1)])
def test_denoising_steps_drawn(max_step: int | None, largest: int) -> None:
    loss = DiffusionRefinerLoss(refiner(), horizon=H, max_step=max_step)
    drawn = record(loss)
    with torch.no_grad():
        loss(wide_window(2000))
    step, noise = drawn[0][3], drawn[0][2]
    assert sorted(set(step.tolist())) == list(range(1, largest + 1))
    assert noise.mean().abs() < 0.03 and (noise.std() - 1).abs() < 0.03


def test_noise_is_drawn_anew_each_time_and_follows_the_seed() -> None:
    key, loss, _ = make("refiner")
    td = window()
    assert torch.equal(seeded(loss, td, 1)[key], seeded(loss, td, 1)[key])
    assert not torch.equal(loss(td)[key], loss(td)[key])


def test_processes_that_share_a_batch_draw_what_one_would() -> None:
    """Each its own rows of the noise, the steps and the dropped conditions."""
    key, loss, _ = make("refiner")
    td, drawn = wide_window(6), record(loss)
    whole = seeded(loss, td)[key]
    shares = []
    for which in range(3):
        loss.shard = (which, 3)
        shares.append(seeded(loss, td[2 * which : 2 * which + 2])[key])
    assert torch.allclose(torch.stack(shares).mean(), whole, rtol=1e-5)
    for of_all, *of_shares in zip(*drawn, strict=True):
        assert torch.equal(torch.cat(of_shares), of_all)
    keep = drawn[0][4]
    assert keep.any() and not keep.all()


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"horizon": 7}, "divisible by 2"),
        ({"horizon": 8, "condition_dropout": 1.5}, "condition_dropout"),
        ({"horizon": 8, "max_step": 0}, r"1\.\.100"),
        ({"horizon": 8, "max_step": 101}, r"1\.\.100"),
    ],
)
def test_bad_settings_of_the_refiners_loss(kwargs: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        DiffusionRefinerLoss(refiner(), **kwargs)
