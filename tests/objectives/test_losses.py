"""The losses against ones written by hand, and what TorchRL's LossModules promise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.objectives import SoftUpdate
from torchrl.objectives.common import LossModule

from torchrl_td.errors import TDError
from torchrl_td.modules import (
    DiffusionRefiner,
    InverseDynamics,
    NoiseSchedule,
    PlanCoordinates,
    PlanCritic,
    TrajectoryGenerator,
)
from torchrl_td.networks import (
    MLP,
    RecurrentTrajectoryModel,
    TemporalUNet,
    TrajectoryTransformer,
)
from torchrl_td.objectives import (
    DiffusionRefinerLoss,
    InverseDynamicsLoss,
    PlanCriticLoss,
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
    return InverseDynamics(MLP(2 * O, (8,), A))


def critic() -> PlanCritic:
    return PlanCritic(MLP(O + A, (8,), 1))


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
}
each_loss = pytest.mark.parametrize("name", LOSSES)


def make(name: str, **kwargs) -> tuple[str, LossModule, torch.nn.Module]:
    key, build, make_module = LOSSES[name]
    module = make_module()
    return key, build(module, **kwargs), module


def window() -> TensorDict:
    """Rows padded at the left, at the right, at both ends and not at all."""
    mask = torch.ones(B, T, dtype=torch.bool)
    mask[0, :6] = False  # the present is the episode's first step
    mask[1, 7:] = False  # and here its last
    mask[2, :3] = False
    mask[2, 10:] = False
    return TensorDict(
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


def seeded(loss: LossModule, td: TensorDict, seed: int = 1) -> TensorDict:
    torch.manual_seed(seed)
    return loss(td)


def masked_mean(error: Tensor, mask: Tensor) -> Tensor:
    """Mean over the entries [B, T, D] that are real, by a loop."""
    entries = [
        error[b, t] for b in range(error.shape[0]) for t in range(error.shape[1]) if mask[b, t]
    ]
    return torch.cat(entries).mean()


# --- values ----------------------------------------------------------------------------------


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
    assert torch.equal(plan, td["observation"][:, H - 2 :])
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


# --- reductions and masks --------------------------------------------------------------------


@each_loss
def test_reductions(name: str) -> None:
    td = window()
    key, mean_loss, module = make(name)
    build = LOSSES[name][1]
    mean = seeded(mean_loss, td)[key]
    total = seeded(build(module, reduction="sum"), td)[key]
    none = seeded(build(module, reduction="none"), td)[key]
    mask = td["mask"]
    if name == "refiner":
        mask = mask[:, -H:].clone()
        mask[:, 0] = False
    assert none.shape[:2] == mask.shape
    assert none[~mask].abs().max() == 0 and none[mask].abs().min() > 0
    if name == "generator":  # the two errors 1:1, whatever the state's width
        assert none.shape == (B, T, 1)
        assert torch.allclose(none[mask].mean(), mean, rtol=1e-5)
        parts = seeded(build(module, reduction="none"), td)
        assert parts["state_error"].shape == (B, T, O)
        want = parts["state_error"].sum() + parts["returns_error"].sum()
        assert torch.allclose(total, want, rtol=1e-5)
    else:
        assert torch.allclose(none.sum(), total, rtol=1e-5)
        assert torch.allclose(none[mask].mean(), mean, rtol=1e-5)
    with pytest.raises(TDError, match="none, mean, sum"):
        build(module, reduction="max")


@pytest.mark.parametrize("garbage", [1e6, float("nan")])
@pytest.mark.parametrize("name", ["generator", "gru", "inverse_dynamics", "critic"])
def test_masked_entries_do_not_matter(name: str, garbage: float) -> None:
    """Neither to the loss nor, what is more, to a gradient: 0 · NaN is NaN."""
    if name == "gru":
        module = generator("gru", "change")
        key, loss = "loss_generator", TrajectoryGeneratorLoss(module)
    else:
        key, loss, module = make(name)
    td = window()
    want = loss(td)[key]
    want.backward()
    gradients = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    other = td.clone()
    for entry in other.keys(True, True):
        if entry != "mask":
            other[entry][~td["mask"]] = garbage
    got = loss(other)[key]
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
    td = window()
    td["mask"][:] = False
    assert loss(td)[key] == 0


# --- what the refiner's loss draws -----------------------------------------------------------


def record(loss: DiffusionRefinerLoss) -> list[tuple[Tensor, ...]]:
    """Lists the arguments of every later `noise_error`."""
    drawn, original = [], loss.noise_error

    def noise_error(*args: Tensor) -> Tensor:
        drawn.append(args)
        return original(*args)

    loss.noise_error = noise_error
    return drawn


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
    with pytest.raises(TDError, match=named):
        DiffusionRefinerLoss(refiner(), **kwargs)


# --- keys ------------------------------------------------------------------------------------

RENAMED = {
    "observation": ("agent", "state"),
    "returns_to_go": ("agent", "deep", "rtg"),
    "action": "act",
    "mask": ("info", "real"),
    "next_observation": ("later", "state"),
    "next_returns_to_go": "later_rtg",
}
STANDARD = {
    "observation": "observation",
    "returns_to_go": "returns_to_go",
    "action": "action",
    "mask": "mask",
    "next_observation": ("next", "observation"),
    "next_returns_to_go": ("next", "returns_to_go"),
}


@each_loss
def test_renamed_and_nested_keys(name: str) -> None:
    key, loss, _ = make(name)
    td = window()
    want = seeded(loss, td)[key]
    accepted = set(loss.default_keys.__dataclass_fields__)
    loss.set_keys(**{k: v for k, v in RENAMED.items() if k in accepted})
    assert set(loss.in_keys) == {RENAMED[k] for k in accepted}
    moved = TensorDict({RENAMED[k]: td[STANDARD[k]] for k in accepted}, batch_size=[B, T])
    assert torch.equal(seeded(loss, moved)[key], want)


@each_loss
def test_a_key_it_does_not_know(name: str) -> None:
    _, loss, _ = make(name)
    with pytest.raises(ValueError, match="not an accepted"):
        loss.set_keys(reward="reward")


@each_loss
def test_keyword_tensors(name: str) -> None:
    key, loss, _ = make(name)
    td = window()
    want = seeded(loss, td)
    accepted = set(loss.default_keys.__dataclass_fields__)
    torch.manual_seed(1)
    got = loss(**{k: td[STANDARD[k]] for k in accepted})
    got = dict(zip(loss.out_keys, got if isinstance(got, tuple) else (got,), strict=True))
    assert set(got) == set(want.keys())
    assert torch.equal(got[key], want[key])


# --- parameters ------------------------------------------------------------------------------


@each_loss
def test_every_parameter_gets_a_gradient(name: str) -> None:
    key, loss, module = make(name)
    # Some rows keep their condition and some do not.
    seeded(loss, window())[key].backward()
    names = [n for n, _ in module.named_parameters()]
    assert len(names) == len([p for p in loss.parameters() if p.requires_grad])
    for n, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, n


@each_loss
def test_an_optimiser_step_changes_the_modules_own_weights(name: str) -> None:
    key, loss, module = make(name)
    td = window()
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
    seeded(loss, window())
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
