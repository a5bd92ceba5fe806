"""Reductions, and what is masked: it reaches neither a loss nor a gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.objectives.cases import (
    LOSSES,
    B,
    H,
    O,
    T,
    counted_steps,
    each_loss,
    generator,
    make,
    seeded,
    window,
)
from torchrl_td.errors import InputError
from torchrl_td.objectives import TrajectoryGeneratorLoss


@each_loss
def test_reductions(name: str) -> None:
    td = window(name)
    key, mean_loss, module = make(name)
    build = LOSSES[name][1]
    mean = seeded(mean_loss, td)[key]
    total = seeded(build(module, reduction="sum"), td)[key]
    none = seeded(build(module, reduction="none"), td)[key]
    mask = counted_steps(name, td["mask"])
    assert none.shape[:2] == mask.shape
    assert none[~mask].abs().max() == 0 and none[mask].abs().min() > 0
    if name == "generator":  # the two errors 1:1, whatever the state's width
        assert none.shape == (B, T, 1)
        parts = seeded(build(module, reduction="none"), td)
        assert parts["state_error"].shape == (B, T, O)
    assert torch.allclose(none.sum(), total, rtol=1e-5)
    assert torch.allclose(none[mask].mean(), mean, rtol=1e-5)
    with pytest.raises(InputError, match="none, mean, sum"):
        build(module, reduction="max")


@pytest.mark.parametrize("garbage", [1e6, float("nan")])
@pytest.mark.parametrize("name", [*LOSSES, "gru"])
def test_masked_entries_do_not_matter(name: str, garbage: float) -> None:
    """Neither to the loss nor, what is more, to a gradient: 0 · NaN is NaN."""
    if name == "gru":
        module = generator("gru", "change")
        key, loss = "loss_generator", TrajectoryGeneratorLoss(module)
    else:
        key, loss, module = make(name)
    td = window(name)
    want = seeded(loss, td)[key]
    want.backward()
    gradients = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    other = td.clone()
    for entry in other.keys(True, True):
        if entry != "mask":
            other[entry][~td["mask"]] = garbage
    got = seeded(loss, other)[key]
    got.backward()
    assert torch.allclose(got, want, rtol=1e-5)
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)


def test_refiner_reads_nothing_of_the_history() -> None:
    key, loss, module = make("refiner")
    td = window()
    want = seeded(loss, td)[key]
    td["observation"][:, : H - 2] = float("nan")
    td["returns_to_go"][:, : H - 2] = float("nan")
    td["returns_to_go"][:, H - 1 :] = float("nan")
    got = seeded(loss, td)[key]
    assert torch.equal(got, want)
    got.backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_refiner_does_not_learn_positions_past_the_episodes_end() -> None:
    """The prediction there gets no gradient; nor does position 0's."""
    _, loss, module = make("refiner")
    td, outputs = window(), []

    def keep_output(_module: torch.nn.Module, _args: tuple, output: Tensor) -> None:
        output.retain_grad()
        outputs.append(output)

    module.network.register_forward_hook(keep_output)
    loss(td)["loss_refiner"].backward()
    learned = outputs[0].grad.abs().sum(-1) > 0  # [B, H]
    want = td["mask"][:, -H:].clone()
    want[:, 0] = False
    assert torch.equal(learned, want)


@each_loss
def test_a_batch_without_a_real_entry_gives_zero(name: str) -> None:
    key, loss, _ = make(name)
    td = window(name)
    td["mask"][:] = False
    assert loss(td)[key] == 0


@each_loss
def test_the_window_stays_as_it_was(name: str) -> None:
    """The other losses read the same batch after this one."""
    _, loss, _ = make(name)
    td = window(name)
    before = td.clone()
    loss(td)
    assert set(td.keys(True, True)) == set(before.keys(True, True))
    assert all(torch.equal(td[key], before[key]) for key in before.keys(True, True))
