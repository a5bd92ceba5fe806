"""One plan on plain tensors: draft, refinement, choice and action together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchrl.modules import MLP

from torchrl_td.errors import InputError
from torchrl_td.modules import (
    DiffusionRefiner,
    InverseDynamics,
    NoiseSchedule,
    PlanCoordinates,
    PlanCritic,
    TrajectoryGenerator,
    TrajectoryPlanner,
)
from torchrl_td.networks import TemporalUNet, TrajectoryTransformer

B, H, O, A = 4, 8, 3, 2  # noqa: E741


def make(
    candidates: int = 1, generator: bool = True, schedule: NoiseSchedule | None = None, **refiner
) -> TrajectoryPlanner:
    torch.manual_seed(0)
    network = TrajectoryTransformer(O, 2 * H - 2, width=16, layers=1, heads=2)
    unet = TemporalUNet(O, channels=8, multipliers=(1, 2), embedding_dim=8)
    critic = (
        PlanCritic(MLP(O + A, 1, num_cells=(16,), activation_class=torch.nn.ReLU))
        if candidates > 1
        else None
    )
    return TrajectoryPlanner(
        TrajectoryGenerator(network) if generator else None,
        DiffusionRefiner(unet, schedule or NoiseSchedule(), **refiner),
        InverseDynamics(MLP(2 * O, A, num_cells=(16,), activation_class=torch.nn.ReLU)),
        horizon=H,
        critic=critic,
        candidates=candidates,
    )


def history() -> tuple[Tensor, Tensor, Tensor]:
    mask = torch.ones(B, H - 1, dtype=torch.bool)
    mask[1, :-1] = False
    mask[2, :3] = False
    return torch.randn(B, H - 1, O), torch.rand(B, H - 1, 1), mask


@torch.no_grad()
def test_a_plan_is_its_parts_one_after_the_other() -> None:
    planner = make(refine_steps=3)
    inputs = history()
    noise = torch.randn(planner.noise_shape(B))
    assert noise.shape == (B, 1, 3, H, O)
    draft, returns, refined, action = planner.plan(*inputs, noise)
    want, want_returns = planner.generator.generate(*inputs, H - 1)
    assert torch.equal(draft, want) and torch.equal(returns, want_returns)
    want = planner.refiner.refine(draft, inputs[1][:, -1], noise[:, 0])
    assert torch.equal(refined, want)
    assert torch.equal(action, planner.inverse_dynamics.act(refined[:, 0], refined[:, 1]))
    assert action.shape == (B, A)
    assert torch.equal(refined[:, 0], inputs[0][:, -1])


@torch.no_grad()
def test_without_refining_the_draft_is_followed() -> None:
    planner = make(refine_steps=0)
    assert planner.noise_shape(B) == (B, 1, 0, H, O)
    draft, _, refined, action = planner.plan(*history(), torch.randn(planner.noise_shape(B)))
    assert torch.equal(draft, refined)
    assert torch.equal(action, planner.act(draft[:, 0], draft[:, 1]))


@torch.no_grad()
def test_without_a_generator_a_plan_is_made_of_noise() -> None:
    planner = make(
        generator=False, schedule=NoiseSchedule(5, "cosine"), refine_steps=5, init="noise"
    )
    observation, returns, mask = history()
    noise = torch.randn(planner.noise_shape(B))
    draft, _, refined, _ = planner.plan(observation, returns, mask, noise)
    assert torch.equal(draft, observation[:, -1:].expand(-1, H, -1))
    want = planner.refiner.refine(draft, returns[:, -1], noise[:, 0])
    assert torch.equal(refined, want)
    # Only the present counts.
    observation[:, :-1] += 1
    assert torch.equal(planner.plan(observation, returns, mask, noise)[2], refined)


@pytest.mark.parametrize("shift", [1, 3, H - 1])
@torch.no_grad()
def test_replan_shifts_the_plan_and_continues_its_tail(shift: int) -> None:
    planner = make(refine_steps=2)
    plan, plan_returns = torch.randn(B, H, O), torch.rand(B, H, 1)
    present, returns = torch.randn(B, O), torch.rand(B, 1)
    noise = torch.randn(planner.noise_shape(B))
    draft, draft_returns, refined, action = planner.replan(
        plan, plan_returns, present, returns, noise, shift=shift
    )
    kept = H - shift
    assert torch.equal(draft[:, 0], present) and torch.equal(draft_returns[:, 0], returns)
    assert torch.equal(draft[:, 1:kept], plan[:, shift + 1 :])
    assert torch.equal(draft_returns[:, 1:kept], plan_returns[:, shift + 1 :])
    mask = torch.ones(B, kept, dtype=torch.bool)
    tail = planner.generator.generate_uncached(
        draft[:, :kept], draft_returns[:, :kept], mask, shift
    )
    assert torch.allclose(draft[:, kept:], tail[0][:, -shift:], atol=1e-5)
    assert torch.allclose(draft_returns[:, kept:], tail[1][:, -shift:], atol=1e-5)
    assert torch.equal(refined, planner.refiner.refine(draft, returns, noise[:, 0]))
    assert torch.equal(action, planner.act(refined[:, 0], refined[:, 1]))


def by_hand(planner: TrajectoryPlanner, inputs: tuple, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Every candidate on its own: plans [B, N, H, O] and values [B, N]."""
    draft, _ = planner.generator.generate(*inputs, H - 1)
    plans = [
        planner.refiner.refine(draft, inputs[1][:, -1], noise[:, n])
        for n in range(planner.candidates)
    ]
    values = [
        planner.critic.value(p[:, 0], planner.act(p[:, 0], p[:, 1])).squeeze(-1) for p in plans
    ]
    return torch.stack(plans, 1), torch.stack(values, 1)


@torch.no_grad()
def test_deterministic_planning_takes_the_candidate_of_the_highest_value() -> None:
    planner, inputs = make(candidates=6, refine_steps=3), history()
    _, _, refined, action = planner.plan(*inputs)
    fixed = planner.candidate_noise.expand(B, *planner.candidate_noise.shape)
    plans, values = by_hand(planner, inputs, fixed)
    best = values.argmax(1)
    assert len(set(best.tolist())) > 1  # or the rows could be mixed up unseen
    assert torch.allclose(refined, plans[torch.arange(B), best], atol=1e-5)
    assert torch.allclose(action, planner.act(refined[:, 0], refined[:, 1]), atol=1e-6)
    assert torch.equal(planner.plan(*inputs)[2], refined)
    # The first candidate is the plan without noise, the others differ from it.
    want = planner.refiner.refine(planner.plan(*inputs)[0], inputs[1][:, -1])
    assert torch.allclose(plans[:, 0], want, atol=1e-5)
    assert (plans[:, 1:] - plans[:, :1]).abs().amax((2, 3)).min() > 1e-3


@torch.no_grad()
def test_random_planning_draws_from_a_softmax_over_the_values() -> None:
    planner, inputs = make(candidates=3, refine_steps=4), history()
    planner.critic.network[-1].weight.mul_(500)  # so that the odds differ
    noise = torch.randn(planner.noise_shape(B))
    plans, values = by_hand(planner, inputs, noise)
    odds = values.softmax(1)
    assert (odds.amax(1) - odds.amin(1)).max() > 0.1
    runs = 200
    refined = planner.plan(
        *(part.repeat(runs, *[1] * (part.ndim - 1)) for part in (*inputs, noise))
    )[2]
    apart = refined.unflatten(0, (runs, B)).unsqueeze(2) - plans  # [runs, B, N, H, O]
    match = apart.abs().amax((3, 4)) < 1e-5
    assert (match.sum(2) == 1).all()
    counts = match.sum(0)
    # Four standard deviations of the binomial.
    tolerance = 4 * (odds * (1 - odds) / runs).sqrt() + 1e-3
    assert ((counts / runs - odds).abs() < tolerance).all()


@torch.no_grad()
def test_greedy_planning_with_noise_takes_the_highest_value_too() -> None:
    planner, inputs = make(candidates=6, refine_steps=3), history()
    noise = torch.randn(planner.noise_shape(B))
    plans, values = by_hand(planner, inputs, noise)
    want = plans[torch.arange(B), values.argmax(1)]
    for _ in range(3):
        refined = planner.plan(*inputs, noise, greedy=True)[2]
        assert torch.allclose(refined, want, atol=1e-5)
    shifted = [
        planner.replan(want, torch.rand(B, H, 1) * 0, *present, noise, greedy=True)[2]
        for present in [(inputs[0][:, -1], inputs[1][:, -1])] * 3
    ]
    assert torch.equal(shifted[0], shifted[1]) and torch.equal(shifted[0], shifted[2])


@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 1.2])
@torch.no_grad()
def test_no_rows(guidance_scale: float) -> None:
    planner = make(refine_steps=2, guidance_scale=guidance_scale)
    _, _, refined, action = planner.plan(*(x[:0] for x in history()))
    assert refined.shape == (0, H, O) and action.shape == (0, A)


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: make(candidates=1.5), "candidates must be a whole number, got 1.5"),
        (lambda: make(generator=False), "init='noise'"),
        (lambda: make(candidates=0), "candidates must be at least 1, got 0"),
    ],
)
def test_bad_settings(build, named: str) -> None:
    with pytest.raises(InputError, match=named):
        build()


def test_parts_that_do_not_fit() -> None:
    planner = make()
    parts = (planner.generator, planner.refiner, planner.inverse_dynamics)
    with pytest.raises(InputError, match="divisible by 2"):
        TrajectoryPlanner(*parts, horizon=7)
    with pytest.raises(InputError, match="critic"):
        TrajectoryPlanner(*parts, horizon=8, candidates=2)
    with pytest.raises(InputError, match="horizon must be at least 2"):
        TrajectoryPlanner(*parts, horizon=1)
    with pytest.raises(InputError, match="max_length 30, but this one's is 14"):
        TrajectoryPlanner(*parts, horizon=16)
    other = TemporalUNet(O + 1, channels=8, multipliers=(1, 2))
    with pytest.raises(InputError, match="width 3, the U-Net's 4"):
        TrajectoryPlanner(parts[0], DiffusionRefiner(other, NoiseSchedule()), parts[2], horizon=H)
    with pytest.raises(InputError, match=r"reads 4 numbers, but .* width 3 it is given 6"):
        TrajectoryPlanner(
            *parts[:2],
            InverseDynamics(MLP(4, A, num_cells=(16,), activation_class=torch.nn.ReLU)),
            horizon=H,
        )
    network = parts[1].network
    for shape in ((2, O), (H, O + 1)):
        scaled = PlanCoordinates(torch.ones(shape))
        refiner = DiffusionRefiner(network, NoiseSchedule(), coordinates=scaled)
        with pytest.raises(InputError, match=r"scale has shape .* need \[8, 3\]"):
            TrajectoryPlanner(parts[0], refiner, parts[2], horizon=H)
    # A refiner that is switched off asks nothing of the horizon.
    off = DiffusionRefiner(planner.refiner.network, NoiseSchedule(), refine_steps=0)
    TrajectoryPlanner(parts[0], off, parts[2], horizon=7)
    parts[2].double()
    with pytest.raises(InputError, match=r"inverse_dynamics.* is torch.float64"):
        TrajectoryPlanner(*parts, horizon=H)
