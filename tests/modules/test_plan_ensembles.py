"""Generators and inverse dynamics of several networks."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.modules import MLP
from torchrl.objectives import LossModule

from tests.settings import composed
from torchrl_td.checkpoint.build import build_model
from torchrl_td.data import Normalizer
from torchrl_td.errors import InputError
from torchrl_td.modules import (
    DiffusionRefiner,
    NoiseSchedule,
    PlanGenerator,
    PlanInverseDynamics,
    TrajectoryPlanner,
)
from torchrl_td.modules.plan_parts import Ensemble, members_of
from torchrl_td.modules.trajectory_diffuser import Scales
from torchrl_td.networks import ModulatedMLP, PlanDenoiser
from torchrl_td.objectives import PlanGeneratorLoss, PlanInverseDynamicsLoss

B, H, O, A, M = 6, 4, 3, 2, 3  # noqa: E741


def generators() -> list[MLP]:
    return [MLP(O + 1, (H - 1) * O, num_cells=[8]) for _ in range(M)]


def inverse_dynamics() -> list[MLP]:
    return [MLP(O + 2 * O + 1, A, num_cells=[8]) for _ in range(M)]


def test_the_mean_draft_and_the_mean_action_count() -> None:
    state, condition, scale = torch.randn(5, B, O), torch.randn(5, B, 1), torch.rand(H, O)
    networks = generators()
    drafts = [PlanGenerator(network, scale).draft(state, condition) for network in networks]
    draft = PlanGenerator(Ensemble(networks), scale).draft(state, condition)
    torch.testing.assert_close(draft, torch.stack(drafts).mean(0))
    acting = inverse_dynamics()
    actions = [PlanInverseDynamics(one, scale).act_on(draft, condition) for one in acting]
    together = PlanInverseDynamics(Ensemble(acting), scale)
    torch.testing.assert_close(together.act_on(draft, condition), torch.stack(actions).mean(0))
    assert together.action_dim == A


def test_of_choices_the_highest_mean_score_is_made() -> None:
    acting, draft, condition = inverse_dynamics(), torch.randn(B, H, O), torch.randn(B, 1)
    alone = [PlanInverseDynamics(one, torch.ones(H, O), choices=True) for one in acting]
    scores = torch.stack([one.output(draft, condition) for one in alone]).mean(0)
    together = PlanInverseDynamics(Ensemble(acting), torch.ones(H, O), choices=True)
    assert torch.equal(together.act_on(draft, condition).argmax(-1), scores.argmax(-1))


def test_each_generator_learns_as_it_would_alone() -> None:
    networks, scale = generators(), torch.rand(H, O)
    plans = TensorDict(
        observation=torch.randn(B, H, O),
        returns_to_go=torch.randn(B, H, 1),
        mask=torch.rand(B, H) < 0.8,
        batch_size=[B, H],
    )
    plans["mask"][:, 0] = True
    alone = [PlanGeneratorLoss(PlanGenerator(one, scale)) for one in networks]
    together = PlanGeneratorLoss(PlanGenerator(Ensemble(networks), scale))
    _learns_alike(together, alone, plans)


@pytest.mark.parametrize("choices", [False, True])
def test_each_inverse_dynamics_learns_as_it_would_alone(choices: bool) -> None:
    networks, scale = inverse_dynamics(), torch.rand(H, O)
    action = torch.randn(B, A)
    batch = TensorDict(
        plan=TensorDict(draft=torch.randn(B, H, O), batch_size=[B]),
        condition=torch.randn(B, 1),
        action=torch.nn.functional.one_hot(action.argmax(-1), A).float() if choices else action,
        batch_size=[B],
    )

    def loss(network: torch.nn.Module) -> PlanInverseDynamicsLoss:
        return PlanInverseDynamicsLoss(PlanInverseDynamics(network, scale, choices=choices))

    _learns_alike(loss(Ensemble(networks)), [loss(one) for one in networks], batch)


def _learns_alike(together: LossModule, alone: list[LossModule], batch: TensorDict) -> None:
    """The loss is the mean of what each would have alone, and so is every gradient."""
    (name,) = together.out_keys
    mean = torch.stack([loss(batch)[name] for loss in alone]).mean()
    found = together(batch)[name]
    torch.testing.assert_close(found, mean)
    ours = [p for p in together.parameters() if p.requires_grad]
    theirs = [p for loss in alone for p in loss.parameters() if p.requires_grad]
    pairs = zip(torch.autograd.grad(found, ours), torch.autograd.grad(mean, theirs), strict=True)
    for gradient, its in pairs:
        torch.testing.assert_close(gradient, its)


def test_settings_make_ensembles_of_what_is_asked_for_returns() -> None:
    def parts(scored: bool) -> list[torch.nn.Module]:
        words = (f"task.scored={str(scored).lower()}", "generator.members=2")
        config = composed("preset=strided", *words, "inverse_dynamics.members=3")
        sizes = Normalizer(torch.zeros(O), torch.ones(O)), Scales.empty(8, O)
        model = build_model(config, O, A, *sizes)
        return [model.generator.network, model.inverse_dynamics.network]

    returns, scores = parts(scored=False), parts(scored=True)
    assert [len(members_of(network)) for network in returns] == [2, 3]
    assert all(isinstance(one, ModulatedMLP) for network in returns for one in members_of(network))
    assert not any(isinstance(network, Ensemble) for network in scores)


READS = O + 2 * O + 1


@pytest.mark.parametrize(
    ("drafting", "acting", "scale", "says"),
    [
        ((), (READS + 1, A), H, r"inverse dynamics reads 11 numbers, but .* given 10"),
        ((), (READS, A + 1), H, "a network of the inverse dynamics gives 3 numbers, not 2"),
        ((O, (H - 1) * O), (), H, r"generator reads 3 numbers, but .* given 4"),
        ((O + 1, H * O), (), H, "a network of the generator gives 12 numbers, not 9"),
        ((), (), H + 1, r"generator's scale has shape \[5, 3\], but .* need \[4, 3\]"),
    ],
)
def test_networks_that_do_not_fit_are_refused(
    drafting: tuple[int, ...], acting: tuple[int, ...], scale: int, says: str
) -> None:
    """The last of several, too, after others that do."""
    drafts, acts = generators(), inverse_dynamics()
    drafts += [MLP(*drafting, num_cells=[8])] if drafting else []
    acts += [MLP(*acting, num_cells=[8])] if acting else []
    with pytest.raises(InputError, match=says):
        TrajectoryPlanner(
            PlanGenerator(Ensemble(drafts), torch.ones(scale, O)),
            DiffusionRefiner(PlanDenoiser(O, H, (8,)), NoiseSchedule()),
            PlanInverseDynamics(Ensemble(acts), torch.ones(H, O)),
            horizon=H,
        )


def test_a_network_may_be_one_layer() -> None:
    layers = [torch.nn.Linear(READS, A) for _ in range(2)]
    assert PlanInverseDynamics(Ensemble(layers), torch.ones(H, O)).action_dim == A
    assert PlanInverseDynamics(layers[0], torch.ones(H, O)).action_dim == A
