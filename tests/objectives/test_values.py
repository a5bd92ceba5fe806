"""The losses against ones written by hand."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.cases import (
    B,
    H,
    O,
    T,
    critic,
    generator,
    inverse_dynamics,
    masked_mean,
    plan_generator,
    plan_inverse_dynamics,
    record,
    refiner,
    window,
)
from torchrl_td.objectives import (
    DiffusionRefinerLoss,
    InverseDynamicsLoss,
    PlanCriticLoss,
    PlanGeneratorLoss,
    PlanInverseDynamicsLoss,
    TrajectoryGeneratorLoss,
)


@pytest.mark.parametrize("predict", ["state", "change"])
@pytest.mark.parametrize("kind", ["transformer", "gru", "lstm"])
def test_generator_loss(kind: str, predict: str) -> None:
    module, td = generator(kind, predict), window()
    out = TrajectoryGeneratorLoss(module)(td)
    state, returns = module.network(td["observation"], td["returns_to_go"], td["mask"])
    state_target, returns_target = td["next", "observation"], td["next", "returns_to_go"]
    if predict == "change":
        change = state_target - td["observation"]
        state_target = torch.stack(
            [change[..., 0] / 0.5, torch.zeros(B, T), change[..., 2] / 2.0], -1
        )
        returns_target = (returns_target - td["returns_to_go"]) / 0.1
    state_error = masked_mean((state - state_target) ** 2, td["mask"])
    returns_error = masked_mean((returns - returns_target) ** 2, td["mask"])
    assert torch.allclose(out["state_error"], state_error, rtol=1e-5)
    assert torch.allclose(out["returns_error"], returns_error, rtol=1e-5)
    assert torch.allclose(out["loss_generator"], state_error + returns_error, rtol=1e-5)
    assert out["loss_generator"].requires_grad
    assert not out["state_error"].requires_grad and not out["returns_error"].requires_grad


@pytest.mark.parametrize("scaled", [False, True])
def test_refiner_loss(scaled: bool) -> None:
    """With everything that is drawn recorded, the loss is a page of arithmetic."""
    scale = torch.rand(H, O) + 0.5 if scaled else None
    module, td = refiner(scale), window()
    loss = DiffusionRefinerLoss(module, horizon=H)
    drawn = record(loss)
    out = loss(td)
    plan, condition, noise, step, keep = drawn[0]
    # The plan starts at the present, entry L - 1 = H - 2 of the window.
    shown = td["observation"].clone()
    shown[1, 7:], shown[2, 10:] = shown[1, 6], shown[2, 9]  # the last state of an episode
    assert torch.equal(plan, shown[:, H - 2 :])
    assert torch.equal(condition, td["returns_to_go"][:, H - 2])
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-3, 2e-2, 100).double(), 0)
    error = torch.zeros(B, H, O)
    for b in range(B):
        clean = plan[b].double()
        if scaled:
            clean[1:] = (clean[1:] - clean[0]) / scale[1:]
        a = alpha_bar[step[b] - 1]
        noisy = a.sqrt() * clean + (1 - a).sqrt() * noise[b]
        noisy[0] = clean[0]
        rows = slice(b, b + 1)
        predicted = module.network(noisy.float()[None], step[rows], condition[rows], keep[rows])
        error[b] = (predicted[0] - noise[b]) ** 2
    want = masked_mean(error[:, 1:], td["mask"][:, H - 1 :])  # position 0 carries no loss
    assert torch.allclose(out["loss_refiner"], want, rtol=1e-4)


def test_inverse_dynamics_loss() -> None:
    module, td = inverse_dynamics(), window()
    predicted = module.network(td["observation"], td["next", "observation"])
    want = masked_mean((predicted - td["action"]) ** 2, td["mask"])
    got = InverseDynamicsLoss(module)(td)["loss_inverse_dynamics"]
    assert torch.allclose(got, want, rtol=1e-5)


def test_critic_loss() -> None:
    module, td = critic(), window()
    value = module.network(td["observation"], td["action"])
    want = masked_mean((value - td["returns_to_go"]) ** 2, td["mask"])
    assert torch.allclose(PlanCriticLoss(module)(td)["loss_critic"], want, rtol=1e-5)


def test_plan_generator_loss() -> None:
    module, td = plan_generator(), window()
    plan, condition = td["observation"][:, H - 2 :], td["returns_to_go"][:, H - 2]
    output = module.network(torch.cat([plan[:, 0], condition], -1)).view(B, H - 1, O)
    target = (plan[:, 1:] - plan[:, :1]) / module.scale[1:]
    want = masked_mean((output - target) ** 2, td["mask"][:, H - 1 :])
    got = PlanGeneratorLoss(module)(td)["loss_generator"]
    assert torch.allclose(got, want, rtol=1e-5)
    td["mask"][3, H - 2] = False  # a plan from padding, whatever follows, teaches nothing
    mask = td["mask"][:, H - 1 :].clone()
    mask[3] = False
    want = masked_mean((output - target) ** 2, mask)
    assert torch.allclose(PlanGeneratorLoss(module)(td)["loss_generator"], want, rtol=1e-5)


def test_plan_inverse_dynamics_loss() -> None:
    module, td = plan_inverse_dynamics(), window("plan_inverse_dynamics")
    draft, condition = td["plan", "draft"], td["condition"]
    planned = ((draft[:, :, 1:3] - draft[:, :, :1]) * module.inverse_scale).clamp(-8, 8)
    inputs = torch.cat([draft[:, :, 0], planned.flatten(-2), condition], -1)
    want = masked_mean((module.network(inputs) - td["action"]) ** 2, td["mask"])
    got = PlanInverseDynamicsLoss(module)(td)["loss_inverse_dynamics"]
    assert torch.allclose(got, want, rtol=1e-5)
