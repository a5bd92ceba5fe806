"""The losses on small networks, a window with padding, and what tests do with them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.modules import MLP
from torchrl.objectives.common import LossModule

from torchrl_td.modules import (
    DiffusionRefiner,
    InverseDynamics,
    NoiseSchedule,
    PlanCoordinates,
    PlanCritic,
    PlanGenerator,
    PlanInverseDynamics,
    PlanValue,
    ReturnsLimit,
    TrajectoryGenerator,
)
from torchrl_td.networks import RecurrentTrajectoryModel, TemporalUNet, TrajectoryTransformer
from torchrl_td.objectives import (
    DiffusionRefinerLoss,
    InverseDynamicsLoss,
    PlanCriticLoss,
    PlanGeneratorLoss,
    PlanInverseDynamicsLoss,
    PlanValueLoss,
    ReturnsLimitLoss,
    TrajectoryGeneratorLoss,
)

B, T, H, O, A = 6, 14, 8, 3, 2  # noqa: E741
CHANGE = torch.tensor([0.5, 0.0, 2.0])


def generator(kind: str = "transformer", predict: str = "state") -> TrajectoryGenerator:
    network = (
        TrajectoryTransformer(O, T, width=16, layers=1, heads=2)
        if kind == "transformer"
        else RecurrentTrajectoryModel(O, kind, width=16, layers=1)
    )
    scales = {"change_scale": CHANGE, "returns_change_scale": 0.1} if predict == "change" else {}
    return TrajectoryGenerator(network, predict=predict, **scales)


def refiner(scale: Tensor | None = None) -> DiffusionRefiner:
    network = TemporalUNet(O, channels=8, multipliers=(1, 2), embedding_dim=8)
    return DiffusionRefiner(network, NoiseSchedule(), coordinates=PlanCoordinates(scale))


def inverse_dynamics() -> InverseDynamics:
    return InverseDynamics(MLP(2 * O, A, num_cells=(8,)))


def critic() -> PlanCritic:
    return PlanCritic(MLP(O + A, 1, num_cells=(8,)))


def plan_generator() -> PlanGenerator:
    return PlanGenerator(MLP(O + 1, (H - 1) * O, num_cells=(8,)), torch.rand(H, O) + 0.5)


def plan_inverse_dynamics() -> PlanInverseDynamics:
    network = MLP(O + 2 * O + 1, A, num_cells=(8,))
    return PlanInverseDynamics(network, torch.rand(H, O) + 0.5, plan_states=2)


def plan_value() -> PlanValue:
    return PlanValue(MLP(O, 3, num_cells=(8,)))


def returns_limit() -> ReturnsLimit:
    return ReturnsLimit(MLP(O, 1, num_cells=(8,)))


class PlainNoise(nn.Module):
    """A noise network with the documented call and nothing else of the U-Net's."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network
        self.layer = nn.Linear(O + 2, O)

    def forward(self, x: Tensor, step: Tensor, condition: Tensor, keep: Tensor) -> Tensor:
        if self.network is not None:
            return self.network(x, step, condition, keep)
        about = torch.cat([step.unsqueeze(-1).to(x.dtype), condition * keep.unsqueeze(-1)], -1)
        return self.layer(torch.cat([x, about.unsqueeze(1).expand(-1, x.shape[1], -1)], -1))


# Name of the loss, how it is made of its module, and the module.
LOSSES: dict[str, tuple[str, Callable[..., LossModule], Callable[[], torch.nn.Module]]] = {
    "generator": ("loss_generator", TrajectoryGeneratorLoss, generator),
    "refiner": (
        "loss_refiner",
        lambda module, **kwargs: DiffusionRefinerLoss(module, horizon=H, **kwargs),
        refiner,
    ),
    "inverse_dynamics": ("loss_inverse_dynamics", InverseDynamicsLoss, inverse_dynamics),
    "critic": ("loss_critic", PlanCriticLoss, critic),
    "plan_generator": ("loss_generator", PlanGeneratorLoss, plan_generator),
    "plan_inverse_dynamics": (
        "loss_inverse_dynamics",
        PlanInverseDynamicsLoss,
        plan_inverse_dynamics,
    ),
    "plan_value": ("loss_plan_value", PlanValueLoss, plan_value),
    "returns_limit": ("loss_returns_limit", ReturnsLimitLoss, returns_limit),
}
each_loss = pytest.mark.parametrize("name", LOSSES)


def make(name: str, **kwargs) -> tuple[str, LossModule, torch.nn.Module]:
    key, build, make_module = LOSSES[name]
    module = make_module()
    return key, build(module, **kwargs), module


def counted_steps(name: str, mask: Tensor) -> Tensor:
    """Which of the steps that a loss looks at it learns from, for a mask [B, T]."""
    if name not in ("refiner", "plan_generator"):
        return mask
    mask = mask[:, -H:].clone()
    mask[:, 0] = False
    return mask


def window(name: str = "") -> TensorDict:
    """Rows padded at the left, at the right, at both ends and not at all; what a loss reads."""
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[0, :6] = False  # the present is the episode's first step
    mask[1, 7:] = False  # and here its last
    mask[2, :3] = False
    mask[2, 10:] = False
    td = TensorDict(
        observation=torch.randn(B, T, O),
        returns_to_go=torch.rand(B, T, 1),
        action=torch.randn(B, T, A),
        mask=mask,
        next=TensorDict(
            observation=torch.randn(B, T, O),
            returns_to_go=torch.rand(B, T, 1),
            batch_size=[B, T],
        ),
        batch_size=[B, T],
    )
    if name == "plan_inverse_dynamics":
        td["plan", "draft"] = torch.randn(B, T, H, O)
        td["condition"] = torch.randn(B, T, 1)
    if name == "plan_value":
        td["plan", "reward"] = torch.rand(B, T, 1)
        td["plan", "end"] = torch.randn(B, T, O)
        td["plan", "discount"] = torch.rand(B, T, 1)
    return td


def seeded(loss: LossModule, td: TensorDict, seed: int = 1) -> TensorDict:
    torch.manual_seed(seed)
    return loss(td)


def masked_mean(error: Tensor, mask: Tensor) -> Tensor:
    """Mean over the entries [B, T, D] that are real, by a loop."""
    entries = [
        error[b, t] for b in range(error.shape[0]) for t in range(error.shape[1]) if mask[b, t]
    ]
    return torch.cat(entries).mean()


def record(loss: DiffusionRefinerLoss) -> list[tuple[Tensor, ...]]:
    """Lists the arguments of every later `noise_error`."""
    drawn, original = [], loss.noise_error

    def noise_error(*args: Tensor) -> Tensor:
        drawn.append(args)
        return original(*args)

    loss.noise_error = noise_error
    return drawn
