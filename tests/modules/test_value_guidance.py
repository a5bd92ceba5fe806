"""Diffuser's guide: the gradient in closed form, and what it does to samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchrl_td.modules import DiffusionRefiner, NoiseSchedule
from torchrl_td.modules.value_guidance import ValueGuidedNoise


class Plain(nn.Module):
    """The noise model of standard normal plans, at whose every step ε̂ = σ_k x."""

    observation_dim, horizon_multiple = 2, 1

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.kept: list[Tensor | None] = []

    def forward(self, x: Tensor, step: Tensor, _: Tensor, keep: Tensor | None = None) -> Tensor:
        self.kept.append(keep)
        return self.schedule.noise_scale[step.long()].view(-1, 1, 1) * x


class Sum(nn.Module):
    """The value that grows with every entry."""

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        return x.flatten(1).sum(-1, keepdim=True)


def test_the_gradient_in_closed_form() -> None:
    schedule = NoiseSchedule(20, "cosine")
    plain = Plain(schedule)
    guided = ValueGuidedNoise(plain, Sum(), schedule, scale=3.0)
    x, step = torch.randn(4, 8, 2), torch.tensor([1, 5, 9, 20])
    with torch.no_grad():
        moved = plain(x, step, torch.zeros(4, 1)) - guided(x, step, torch.ones(4, 1))
    sigma = schedule.noise_scale[step].view(-1, 1, 1)
    torch.testing.assert_close(moved, (3.0 * sigma).expand_as(moved))
    assert plain.kept[-1] is not None and not plain.kept[-1].any()  # its condition is dropped


def test_it_guides_where_no_gradient_is_kept() -> None:
    schedule = NoiseSchedule(20, "cosine")
    guided = ValueGuidedNoise(Plain(schedule), Sum(), schedule, scale=3.0)
    arguments = torch.randn(4, 8, 2), torch.tensor([1, 5, 9, 20]), torch.zeros(4, 1)
    with torch.inference_mode():
        inferred = guided(*arguments)
    torch.testing.assert_close(inferred, guided(*arguments))


def test_plans_are_worth_more_the_stronger_the_guide() -> None:
    schedule = NoiseSchedule(20, "cosine")
    noise = torch.randn(64, 20, 8, 2, generator=torch.Generator().manual_seed(0))
    values = []
    for scale in (0.0, 0.5, 1.0, 2.0):
        network = ValueGuidedNoise(Plain(schedule), Sum(), schedule, scale)
        settings = {"init": "noise", "refine_steps": 20, "guidance_scale": 1.0}
        refiner = DiffusionRefiner(network, schedule, **settings)  # type: ignore[arg-type]
        with torch.no_grad():
            plan = refiner.refine(torch.zeros(64, 8, 2), torch.zeros(64, 1), noise)
        assert (plan[:, 0] == 0).all()  # the present state is pinned
        values.append(float(plan[:, 1:].mean()))
    assert abs(values[0]) < 0.1 and values == sorted(values)
    assert values[2] > 0.5  # a standard normal tilted by exp(sum) has mean 1 in each entry


def test_temperature_scales_the_noise_that_a_plan_starts_from() -> None:
    schedule = NoiseSchedule(20, "cosine")
    noise = torch.randn(3, 20, 8, 2)
    settings = {"init": "noise", "refine_steps": 20, "guidance_scale": 1.0}
    plans = []
    for temperature, drawn in ((0.5, noise), (1.0, 0.5 * noise), (0.0, noise), (1.0, None)):
        refiner = DiffusionRefiner(Plain(schedule), schedule, temperature=temperature, **settings)  # type: ignore[arg-type]
        with torch.no_grad():
            plans.append(refiner.refine(torch.zeros(3, 8, 2), torch.zeros(3, 1), drawn))
    torch.testing.assert_close(plans[0], plans[1])
    torch.testing.assert_close(plans[2], plans[3])
