"""Gradients, optimisers and averages reach the module's own weights."""

from __future__ import annotations

import pytest
import torch
from torchrl.objectives import SoftUpdate

from tests.objectives.cases import each_loss, make, seeded, window
from torchrl_td.modules import NoiseSchedule


@each_loss
def test_every_parameter_gets_a_gradient(name: str) -> None:
    key, loss, module = make(name)
    # Some rows keep their condition and some do not.
    seeded(loss, window(name))[key].backward()
    names = [n for n, _ in module.named_parameters()]
    assert len(names) == len([p for p in loss.parameters() if p.requires_grad])
    for n, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, n


@each_loss
def test_an_optimiser_step_changes_the_modules_own_weights(name: str) -> None:
    key, loss, module = make(name)
    td = window(name)
    before = [p.detach().clone() for p in module.parameters()]
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    first = seeded(loss, td)[key]
    for _ in range(20):
        optimizer.zero_grad()
        seeded(loss, td)[key].backward()
        optimizer.step()
    for old, new in zip(before, module.parameters(), strict=True):
        assert not torch.equal(old, new)
    assert seeded(loss, td)[key] < first


@each_loss
def test_the_module_can_be_used_after_the_loss(name: str) -> None:
    """The loss borrows the module's weights and gives them back."""
    _, loss, module = make(name)
    parameters = {n: id(p) for n, p in module.named_parameters()}
    state = {k: v.clone() for k, v in module.state_dict().items()}
    seeded(loss, window(name))
    assert {n: id(p) for n, p in module.named_parameters()} == parameters
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())


def test_soft_update_of_the_refiner() -> None:
    _, loss, module = make("refiner", delay_refiner=True)
    ema = SoftUpdate(loss, eps=0.9)
    start = [p.detach().clone() for p in module.parameters()]
    target = loss.target_refiner_network_params
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    ema.step()
    with target.data.to_module(module):
        for old, new in zip(start, module.parameters(), strict=True):
            assert torch.allclose(new, old + 0.1, atol=1e-5)
        # The noise schedule is not averaged away.
        assert torch.equal(module.schedule.alpha_bar, NoiseSchedule().alpha_bar)
    for old, new in zip(start, module.parameters(), strict=True):
        assert torch.allclose(new, old + 1.0, atol=1e-6)
    # No gradient reaches the average.
    seeded(loss, window())["loss_refiner"].backward()
    assert all(p.grad is None for p in target.values(True, True))


def test_without_delay_there_is_no_average_to_update() -> None:
    _, loss, _ = make("refiner")
    with pytest.raises(Exception, match="target"):
        SoftUpdate(loss, eps=0.9)
