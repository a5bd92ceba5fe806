"""The refiner against Algorithm 1 written out by hand, and each of its settings."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from torchrl_td.errors import InputError
from torchrl_td.modules import DiffusionRefiner, NoiseSchedule, PlanCoordinates
from torchrl_td.networks import TemporalUNet

B, H, O = 3, 8, 2  # noqa: E741
SCHEDULE = NoiseSchedule()


@pytest.fixture(scope="module")
def network() -> TemporalUNet:
    torch.manual_seed(0)
    return TemporalUNet(O, channels=8, multipliers=(1, 2), embedding_dim=8)


@pytest.fixture
def draft() -> Tensor:
    return torch.randn(B, H, O)


@pytest.fixture
def target() -> Tensor:
    return torch.rand(B, 1) + 0.5


def draws(refiner: DiffusionRefiner, batch: int = B) -> Tensor:
    return torch.randn(batch, refiner.noise_draws, H, O)


@torch.no_grad()
def algorithm_1(
    network: TemporalUNet,
    draft: Tensor,
    target: Tensor,
    noise: Tensor | None,
    k: int,
    guidance: float,
    temperature: float = 1.0,
    add_noise: bool = True,
    scale: Tensor | None = None,
) -> Tensor:
    """The paper's loop in double precision, one row and one pass at a time."""
    beta = torch.linspace(1e-3, 2e-2, 100, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - beta, 0)
    plans = []
    for row in range(len(draft)):
        present = draft[row, 0].double()
        x = draft[row].double()
        if scale is not None:
            x = torch.cat([x[:1], (x[1:] - present) / scale[1:].double()])
        if add_noise:
            epsilon = torch.zeros_like(x) if noise is None else noise[row, 0].double()
            x = alpha_bar[k - 1].sqrt() * x + (1 - alpha_bar[k - 1]).sqrt() * epsilon
        x[0] = present
        for i, step in enumerate(range(k, 0, -1)):
            args = (x.float().unsqueeze(0), torch.tensor([step]), target[row : row + 1])
            with_return = network(*args)[0].double()
            without = network(*args, torch.tensor([False]))[0].double()
            epsilon = without + guidance * (with_return - without)
            b, now = beta[step - 1], alpha_bar[step - 1]
            x = (x - b / (1 - now).sqrt() * epsilon) / (1 - b).sqrt()
            if step > 1 and noise is not None:
                before = alpha_bar[step - 2]
                variance = b * (1 - before) / (1 - now)
                x = x + temperature * variance.sqrt() * noise[row, i + 1].double()
            x[0] = present
        if scale is not None:
            x = torch.cat([x[:1], present + x[1:] * scale[1:].double()])
        plans.append(x.float())
    return torch.stack(plans)


@settings(max_examples=25)
@given(
    k=st.integers(1, 12),
    guidance=st.sampled_from([0.0, 1.0, 1.2, 3.0]),
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    add_noise=st.booleans(),
    with_noise=st.booleans(),
    scaled=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_algorithm_1(
    network, k, guidance, temperature, add_noise, with_noise, scaled, seed
) -> None:
    torch.manual_seed(seed)
    draft, target = torch.randn(B, H, O), torch.rand(B, 1)
    scale = torch.rand(H, O) + 0.3 if scaled else None
    refiner = DiffusionRefiner(
        network,
        SCHEDULE,
        refine_steps=k,
        guidance_scale=guidance,
        temperature=temperature,
        add_noise=add_noise,
        coordinates=PlanCoordinates(scale),
    )
    assert refiner.noise_draws == k
    noise = draws(refiner) if with_noise else None
    want = algorithm_1(network, draft, target, noise, k, guidance, temperature, add_noise, scale)
    with torch.no_grad():
        got = refiner.refine(draft, target, noise)
    assert torch.allclose(got, want, atol=1e-5)
    assert torch.equal(got[:, 0], draft[:, 0])  # pinned, to the last bit


def test_batched_guidance_is_two_passes(network, draft, target) -> None:
    """One network call for both, and what it gives is what two calls give."""
    refiner = DiffusionRefiner(network, SCHEDULE, refine_steps=1, guidance_scale=1.7)
    rows = []
    hook = network.final.register_forward_hook(lambda *a: rows.append(len(a[2])))
    try:
        with torch.no_grad():
            got = refiner.refine(draft, target)
    finally:
        hook.remove()
    assert rows == [2 * B]
    with torch.no_grad():
        x = SCHEDULE.add_noise(draft, torch.zeros_like(draft), 1)
        x[:, 0] = draft[:, 0]
        step = torch.ones(B)
        conditional = network(x, step, target)
        unconditional = network(x, step, target, torch.zeros(B, dtype=torch.bool))
        predicted = unconditional + 1.7 * (conditional - unconditional)
        want = SCHEDULE.ddpm_step(x, predicted, 1)
    assert torch.allclose(got[:, 1:], want[:, 1:], atol=1e-6)


@pytest.mark.parametrize(("scale", "keep"), [(0.0, False), (1.0, True)])
def test_guidance_0_and_1_are_the_single_models(network, draft, target, scale, keep) -> None:
    refiner = DiffusionRefiner(network, SCHEDULE, refine_steps=3, guidance_scale=scale)
    noise = draws(refiner)
    rows = []
    hook = network.final.register_forward_hook(lambda *a: rows.append(len(a[2])))
    try:
        with torch.no_grad():
            got = refiner.refine(draft, target, noise)
    finally:
        hook.remove()
    assert rows == [B] * 3  # one pass a step
    with torch.no_grad():
        x = SCHEDULE.add_noise(draft, noise[:, 0], 3)
        for i, k in enumerate((3, 2, 1)):
            x = torch.cat([draft[:, :1], x[:, 1:]], 1)
            predicted = network(x, torch.full((B,), k), target, torch.full((B,), keep))
            x = SCHEDULE.ddpm_step(x, predicted, k, noise[:, i + 1] if k > 1 else None)
    assert torch.allclose(got[:, 1:], x[:, 1:], atol=1e-5)
    # The unconditional model does not see the target.
    with torch.no_grad():
        other = refiner.refine(draft, target + 3, noise)
    assert torch.equal(other, got) == (not keep)


def test_no_steps_return_the_draft(network, draft, target) -> None:
    refiner = DiffusionRefiner(network, SCHEDULE, refine_steps=0)
    assert refiner.noise_draws == 0
    assert torch.equal(refiner.refine(draft, target, draws(refiner)), draft)
    td = TensorDict({("plan", "draft"): draft, "returns_to_go": target}, batch_size=[B])
    assert torch.equal(refiner(td)["plan", "refined"], draft)


@settings(max_examples=20)
@given(st.integers(1, 20).flatmap(lambda k: st.tuples(st.just(k), st.integers(1, k))))
def test_ddim_with_fewer_evaluations(network, k_and_evaluations) -> None:
    """The closed form of eta = 0, over the subsequence that the schedule names."""
    k, evaluations = k_and_evaluations
    refiner = DiffusionRefiner(
        network, SCHEDULE, refine_steps=k, sampler="ddim", evaluations=evaluations
    )
    assert refiner.noise_draws == 1
    torch.manual_seed(k)
    draft, target, noise = torch.randn(B, H, O), torch.rand(B, 1), draws(refiner)
    steps = SCHEDULE.sampling_steps(k, evaluations)
    assert len(steps) == evaluations
    alpha_bar = [1.0, *torch.cumprod(1 - torch.linspace(1e-3, 2e-2, 100).double(), 0).tolist()]
    with torch.no_grad():
        got = refiner.refine(draft, target, noise)
        x = math.sqrt(alpha_bar[k]) * draft + math.sqrt(1 - alpha_bar[k]) * noise[:, 0]
        for now, then in zip(steps, [*steps[1:], 0], strict=True):
            x = torch.cat([draft[:, :1], x[:, 1:]], 1)
            step = torch.full((B,), now)
            without = network(x, step, target, torch.zeros(B, dtype=torch.bool))
            epsilon = without + 1.2 * (network(x, step, target) - without)
            clean = (x - math.sqrt(1 - alpha_bar[now]) * epsilon) / math.sqrt(alpha_bar[now])
            x = math.sqrt(alpha_bar[then]) * clean + math.sqrt(1 - alpha_bar[then]) * epsilon
    assert torch.allclose(got[:, 1:], x[:, 1:], atol=1e-5)
    assert torch.equal(got[:, 0], draft[:, 0])


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_plan_from_noise_stays_within_the_clip_range(network, draft, target, sampler) -> None:
    """An untrained network's errors are as large as 1 / the signal left at the first step."""
    whole = {"schedule": NoiseSchedule(100, "cosine"), "refine_steps": 100, "init": "noise"}
    plans = {}
    for limit in (None, 2.0):
        refiner = DiffusionRefiner(network, **whole, sampler=sampler, clip_range=limit)
        torch.manual_seed(0)
        with torch.no_grad():
            plans[limit] = refiner.refine(draft, target, draws(refiner))[:, 1:]
    assert plans[None].abs().max() > 10
    assert plans[2.0].abs().max() <= 2.0 + 1e-5


def test_one_ddim_evaluation_with_perfect_noise_gives_the_clean_plan(
    network, draft, target
) -> None:
    """A network that knows the noise undoes it in one step from anywhere."""
    noise = torch.randn(B, 1, H, O)
    refiner = DiffusionRefiner(network, SCHEDULE, refine_steps=60, sampler="ddim", evaluations=1)
    known = noise[:, 0].transpose(1, 2).repeat(2, 1, 1)  # [2B, O, H], for guidance's two passes
    hook = network.final.register_forward_hook(lambda *_: known)
    try:
        with torch.no_grad():
            got = refiner.refine(draft, target, noise)
    finally:
        hook.remove()
    assert torch.allclose(got, draft, atol=1e-5)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_from_noise_only_the_first_state_of_the_draft_counts(network, target, sampler) -> None:
    refiner = DiffusionRefiner(
        network, NoiseSchedule(20, "cosine"), refine_steps=20, sampler=sampler, init="noise"
    )
    noise = draws(refiner)
    a, b = torch.randn(B, H, O), torch.randn(B, H, O)
    b[:, 0] = a[:, 0]
    with torch.no_grad():
        plan = refiner.refine(a, target, noise)
        assert torch.equal(plan, refiner.refine(b, target, noise))
        assert torch.equal(plan[:, 0], a[:, 0])
        b[:, 0] += 1
        assert not torch.equal(plan[:, 1:], refiner.refine(b, target, noise)[:, 1:])
        assert not torch.equal(plan, refiner.refine(a, target, noise.flip(0)))


def test_a_schedule_that_ends_at_noise_has_to_be_started_at_its_end(network) -> None:
    schedule = NoiseSchedule(20, "cosine")
    DiffusionRefiner(network, schedule, refine_steps=0, init="noise")  # refines nothing
    DiffusionRefiner(
        network, schedule, refine_steps=20, sampler="ddim", evaluations=2, init="noise"
    )
    with pytest.raises(InputError, match="refine_steps=5"):
        DiffusionRefiner(network, schedule, refine_steps=5, init="noise")


def test_exploration_type_decides_on_noise(network, draft, target) -> None:
    refiner = DiffusionRefiner(network, SCHEDULE, refine_steps=4)
    td = TensorDict({("plan", "draft"): draft, "returns_to_go": target}, batch_size=[B])

    def plan(seed: int, kind: ExplorationType) -> Tensor:
        torch.manual_seed(seed)
        with set_exploration_type(kind), torch.no_grad():
            return refiner(td.clone())["plan", "refined"]

    for kind in set(ExplorationType) - {ExplorationType.RANDOM}:
        quiet = plan(1, kind)
        assert torch.equal(torch.get_rng_state(), torch.manual_seed(1).get_state())
        assert torch.equal(quiet, plan(2, kind))
        assert torch.equal(quiet, refiner.refine(draft, target))
    loud = plan(1, ExplorationType.RANDOM)
    assert torch.equal(loud, plan(1, ExplorationType.RANDOM))
    assert not torch.equal(loud, plan(2, ExplorationType.RANDOM))
    assert not torch.equal(loud, quiet)
    with torch.no_grad():  # where no type is set
        assert torch.equal(refiner(td.clone())["plan", "refined"], quiet)


def test_a_plan_from_noise_draws_it_unless_told_not_to(network, draft, target) -> None:
    schedule = NoiseSchedule(10, "cosine")
    refiner = DiffusionRefiner(network, schedule, refine_steps=10, init="noise")
    td = TensorDict({("plan", "draft"): draft, "returns_to_go": target}, batch_size=[B])
    with torch.no_grad():
        plans = [refiner(td.clone())["plan", "refined"] for _ in range(2)]
        assert not torch.equal(*plans)
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            plans = [refiner(td.clone())["plan", "refined"] for _ in range(2)]
        assert torch.equal(*plans)


def test_rows_are_independent(network, draft, target) -> None:
    refiner = DiffusionRefiner(network, SCHEDULE, refine_steps=3)
    noise = draws(refiner)
    with torch.no_grad():
        together = refiner.refine(draft, target, noise)
        for row in range(B):
            rows = slice(row, row + 1)
            alone = refiner.refine(draft[rows], target[rows], noise[rows])
            assert torch.allclose(alone, together[rows], atol=1e-5)


def test_renamed_and_nested_keys(network, draft, target) -> None:
    renamed = DiffusionRefiner(
        network, SCHEDULE, in_keys=[("a", "b", "draft"), "goal"], out_keys=[("out", "plan")]
    )
    td = TensorDict({("a", "b", "draft"): draft, "goal": target}, batch_size=[B])
    with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
        got = renamed(td)["out", "plan"]
        assert torch.equal(got, renamed.refine(draft, target))


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"sampler": "euler"}, "ddpm, ddim"),
        ({"init": "zeros"}, "draft, noise"),
        ({"evaluations": 2}, "sampler='ddim'"),
        ({"sampler": "ddim", "evaluations": 6}, r"1\.\.5"),
        ({"refine_steps": 101}, r"0\.\.100"),
        ({"refine_steps": -1}, r"0\.\.100"),
        ({"refine_steps": 2.0}, "refine_steps must be a whole number, got 2.0"),
        ({"temperature": -0.1}, "temperature must not be negative"),
        ({"clip_range": -1.0}, "clip_range must not be negative"),
        ({"temperature": math.nan}, "temperature must be a finite number, got nan"),
        ({"guidance_scale": math.nan}, "guidance_scale must be a finite number, got nan"),
        ({"init": "noise"}, "at refine_steps=5 this schedule leaves 100% of the plan"),
        ({"init": "noise", "refine_steps": 100}, "leaves 59% of the plan; .* schedule='cosine'"),
    ],
)
def test_bad_settings(network, kwargs: dict, named: str) -> None:
    with pytest.raises(InputError, match=named) as error:
        DiffusionRefiner(network, SCHEDULE, **kwargs)
    assert "\n" not in str(error.value)
