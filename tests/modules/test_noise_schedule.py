"""The noise schedule against the schedulers of diffusers, and against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrl_td.errors import InputError
from torchrl_td.modules import NoiseSchedule

SHAPE = (3, 8, 2)


def draw(seed: int, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def in_double(scheduler: DDPMScheduler | DDIMScheduler, ours: NoiseSchedule):
    """The scheduler with its constants in double precision.

    diffusers keeps them in single precision, where the products of a long schedule have lost
    the digits that are to be compared.
    """
    beta = torch.tensor(ours._beta[1:], dtype=torch.float64)
    scheduler.betas, scheduler.alphas = beta, 1 - beta
    scheduler.alphas_cumprod = torch.cumprod(1 - beta, 0)
    return scheduler


def reference(kind: type, ours: NoiseSchedule, **kwargs):
    return kind(
        ours.denoising_steps,
        trained_betas=ours.beta[1:].tolist(),
        prediction_type="epsilon",
        **{"clip_sample": False, **kwargs},
    )


@st.composite
def schedules(draw_from) -> NoiseSchedule:
    steps = draw_from(st.integers(1, 150))
    if draw_from(st.booleans()):
        return NoiseSchedule(steps, "cosine")
    start = draw_from(st.floats(1e-4, 0.02))
    return NoiseSchedule(steps, "linear", start, draw_from(st.floats(start, 0.05)))


def test_paper_values() -> None:
    schedule = NoiseSchedule()
    assert schedule.alpha_bar.shape == (101,)
    assert schedule.alpha_bar[0] == 1 and schedule.beta[0] == 0
    assert schedule.beta[1].item() == pytest.approx(1e-3)
    assert schedule.beta[100].item() == pytest.approx(2e-2)
    assert schedule.alpha_bar[100].item() == pytest.approx(0.347, abs=5e-4)
    assert schedule.noise_scale[5].item() == pytest.approx(0.083, abs=5e-4)


def test_cosine_ends_at_noise() -> None:
    schedule = NoiseSchedule(100, "cosine")
    assert schedule.alpha_bar[100].item() < 1e-4
    k = torch.arange(1, 100) / 100
    closed = torch.cos((k + 0.008) / 1.008 * math.pi / 2) ** 2
    closed = closed / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert torch.allclose(schedule.alpha_bar[1:100], closed, atol=1e-6)
    squared = DDPMScheduler(100, beta_schedule="squaredcos_cap_v2").betas
    assert torch.allclose(schedule.beta[1:], squared, atol=1e-6)


def test_linear_betas_are_those_of_diffusers() -> None:
    theirs = DDPMScheduler(100, beta_start=1e-3, beta_end=2e-2, beta_schedule="linear")
    ours = NoiseSchedule(100)
    assert torch.allclose(ours.beta[1:], theirs.betas, atol=1e-8)
    assert torch.allclose(ours.alpha_bar[1:], theirs.alphas_cumprod, atol=1e-6)


@settings(max_examples=30)
@given(schedules(), st.data())
def test_add_noise(schedule: NoiseSchedule, data) -> None:
    x, noise = draw(1), draw(2)
    k = [data.draw(st.integers(1, schedule.denoising_steps)) for _ in range(3)]
    theirs = in_double(reference(DDPMScheduler, schedule), schedule)
    want = theirs.add_noise(x, noise, torch.tensor(k) - 1)
    assert torch.allclose(schedule.add_noise(x, noise, torch.tensor(k)), want, atol=1e-6)
    for row in range(3):  # a step given as int is the same
        got = schedule.add_noise(x[row : row + 1], noise[row : row + 1], k[row])
        assert torch.allclose(got, want[row : row + 1], atol=1e-6)
    assert torch.equal(schedule.add_noise(x, noise, 0), x)


@settings(max_examples=40)
@given(schedules(), st.data(), st.booleans())
def test_ddpm_step(schedule: NoiseSchedule, data, with_noise: bool) -> None:
    k = data.draw(st.integers(1, schedule.denoising_steps))
    x, predicted = draw(1), draw(2)
    theirs = in_double(reference(DDPMScheduler, schedule, variance_type="fixed_small"), schedule)
    generator = torch.Generator().manual_seed(3)
    step = theirs.step(predicted, k - 1, x, generator=generator)
    if with_noise or k == 1:  # at k = 1 neither side adds any
        got, want = schedule.ddpm_step(x, predicted, k, draw(3)), step.prev_sample
    else:
        got = schedule.ddpm_step(x, predicted, k)
        std = theirs._get_variance(k - 1).sqrt()
        want = step.prev_sample - std * draw(3)
    assert torch.allclose(got, want, rtol=1e-6, atol=1e-6)
    clean = schedule.predict_clean(x, predicted, k)
    assert torch.allclose(clean, step.pred_original_sample, rtol=1e-6, atol=1e-6)


@settings(max_examples=40)
@given(schedules(), st.data())
def test_ddim_step(schedule: NoiseSchedule, data) -> None:
    total = schedule.denoising_steps
    theirs = in_double(reference(DDIMScheduler, schedule, set_alpha_to_one=True), schedule)
    # diffusers steps by K // evaluations; whatever lies before its first step is the clean sample.
    theirs.set_timesteps(data.draw(st.integers(1, total)))
    gap = total // theirs.num_inference_steps
    k = data.draw(st.integers(1, total))
    x, predicted = draw(1), draw(2)
    want = theirs.step(predicted, k - 1, x, eta=0.0).prev_sample
    got = schedule.ddim_step(x, predicted, k, max(k - gap, 0))
    assert torch.allclose(got, want, rtol=1e-6, atol=1e-6)


@settings(max_examples=40)
@given(schedules(), st.data(), st.floats(0.1, 3.0))
def test_a_clipped_step(schedule: NoiseSchedule, data, limit: float) -> None:
    """Clipping the noise is what diffusers' clipping of the clean sample comes to."""
    k = data.draw(st.integers(1, schedule.denoising_steps))
    x, predicted = draw(1), draw(2)
    noise = schedule.clipped_noise(x, predicted, k, limit)
    clip = {"clip_sample": True, "clip_sample_range": limit}
    theirs = reference(DDPMScheduler, schedule, variance_type="fixed_small", **clip)
    step = in_double(theirs, schedule).step(
        predicted, k - 1, x, generator=torch.Generator().manual_seed(3)
    )
    got = schedule.ddpm_step(x, noise, k, draw(3))
    assert torch.allclose(got, step.prev_sample, rtol=1e-6, atol=1e-6)
    theirs = in_double(reference(DDIMScheduler, schedule, set_alpha_to_one=True, **clip), schedule)
    theirs.set_timesteps(schedule.denoising_steps)
    want = theirs.step(predicted, k - 1, x, use_clipped_model_output=True).prev_sample
    assert torch.allclose(schedule.ddim_step(x, noise, k, k - 1), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
@pytest.mark.parametrize("precise", [True, False])
def test_a_whole_trajectory_in_single_precision(kind: type, precise: bool) -> None:
    """The paper's last five steps on float32 samples.

    Against diffusers in double precision to 1e-6; against diffusers untouched only to 1e-5,
    since it rounds 1 - ᾱ_1 = 0.001 to four digits.
    """
    schedule = NoiseSchedule()
    theirs = reference(kind, schedule)
    if kind is DDIMScheduler:
        theirs.set_timesteps(100)
    if precise:
        theirs = in_double(theirs, schedule)
    weight = draw(9, (2, 2)).float()
    x = draw(1).float()
    want = x.double() if precise else x
    for k in range(5, 0, -1):
        predicted = torch.tanh(want @ weight.to(want.dtype))
        if kind is DDIMScheduler:
            x = schedule.ddim_step(x, torch.tanh(x @ weight), k, k - 1)
            want = theirs.step(predicted, k - 1, want).prev_sample
        else:
            noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(k), dtype=want.dtype)
            x = schedule.ddpm_step(x, torch.tanh(x @ weight), k, noise.float())
            generator = torch.Generator().manual_seed(k)
            want = theirs.step(predicted, k - 1, want, generator=generator).prev_sample
    tolerance = 1e-6 if precise else 1e-5
    assert torch.allclose(x.double(), want.double(), rtol=tolerance, atol=tolerance)


def test_temperature_scales_the_noise_alone() -> None:
    schedule = NoiseSchedule()
    x, predicted, noise = draw(1), draw(2), draw(3)
    mean = schedule.ddpm_step(x, predicted, 7)
    full = schedule.ddpm_step(x, predicted, 7, noise) - mean
    half = schedule.ddpm_step(x, predicted, 7, noise, temperature=0.5) - mean
    assert full.abs().max() > 1e-3
    assert torch.allclose(half, 0.5 * full)
    assert torch.equal(schedule.ddpm_step(x, predicted, 7, noise, temperature=0.0), mean)


@settings(max_examples=30)
@given(schedules(), st.data())
def test_the_true_noise_gives_back_the_clean_sample(schedule: NoiseSchedule, data) -> None:
    schedule = NoiseSchedule() if schedule.schedule == "cosine" else schedule
    k = data.draw(st.integers(1, schedule.denoising_steps))
    evaluations = data.draw(st.integers(1, k))
    x, noise = draw(1), draw(2)
    sample = schedule.add_noise(x, noise, k)
    steps = schedule.sampling_steps(k, evaluations)
    for step, to_step in zip(steps, [*steps[1:], 0], strict=True):
        sample = schedule.ddim_step(sample, noise, step, to_step)
    assert torch.allclose(sample, x, atol=1e-6)


@settings(max_examples=200)
@given(st.integers(1, 1000).flatmap(lambda k: st.tuples(st.just(k), st.integers(1, k))))
def test_sampling_steps_fall_evenly_from_the_start(start_and_evaluations) -> None:
    start, evaluations = start_and_evaluations
    steps = NoiseSchedule(1000).sampling_steps(start, evaluations)
    assert len(steps) == evaluations and steps[0] == start and steps[-1] >= 1
    gaps = [a - b for a, b in zip(steps, [*steps[1:], 0], strict=True)]
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 2  # as even as whole numbers allow


def test_sampling_steps_examples() -> None:
    schedule = NoiseSchedule(100)
    assert schedule.sampling_steps(0) == []
    assert schedule.sampling_steps(5) == [5, 4, 3, 2, 1]
    assert schedule.sampling_steps(100, 4) == [100, 75, 50, 25]
    assert schedule.sampling_steps(5, 3) == [5, 3, 2]  # the nearest whole numbers
    assert schedule.sampling_steps(5, 1) == [5]


@pytest.mark.parametrize(
    ("settings_", "named"),
    [
        ({"denoising_steps": 0}, "denoising_steps"),
        ({"schedule": "sine"}, "linear, cosine"),
        ({"beta_start": 0.0}, "beta_start"),
        ({"beta_start": 0.1, "beta_end": 0.01}, "beta_end"),
        ({"beta_end": 1.0}, "beta_end"),
        ({"beta_start": math.nan}, "beta_start"),
        ({"schedule": torch.rand(99)}, "100 steps .* shape \\[99\\]"),
        ({"schedule": torch.linspace(0, 0.1, 100)}, "between 0 and 1"),
    ],
)
def test_bad_settings(settings_: dict, named: str) -> None:
    with pytest.raises(InputError, match=named) as error:
        NoiseSchedule(**settings_)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("start", "evaluations", "named"),
    [(-1, None, "0..100"), (101, None, "0..100"), (5, 6, "1..5"), (5, 0, "1..5")],
)
def test_bad_sampling_steps(start: int, evaluations: int | None, named: str) -> None:
    with pytest.raises(InputError, match=named):
        NoiseSchedule(100).sampling_steps(start, evaluations)


def test_given_betas_are_taken_as_they_are() -> None:
    linear = NoiseSchedule(100)
    same = NoiseSchedule(100, torch.linspace(1e-3, 2e-2, 100, dtype=torch.float64))
    assert torch.equal(same.alpha_bar, linear.alpha_bar)
    assert same.signal_left(100) == linear.signal_left(100)


def test_a_checkpoint_holds_nothing_of_the_schedule() -> None:
    """It is made from the settings, so an old file cannot bring a schedule that differs."""
    assert NoiseSchedule().state_dict() == {}
