"""The noise schedule: everything about diffusion that needs no network."""

from __future__ import annotations

import math
import operator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from torchrl_td.errors import InputError, check_whole

Schedule = Literal["linear", "cosine"]


class NoiseSchedule(nn.Module):
    """Variance schedule of a diffusion process, with its forward and reverse steps.

    Denoising steps are numbered as in the paper, k = 1 (least noise) to K (most).
    The schedule knows no network: whoever samples predicts the noise and hands it to
    :meth:`ddpm_step` or :meth:`ddim_step`.

    Args:
        denoising_steps: K, the number of steps the forward process is cut into.
        schedule: ``"linear"`` (the paper's: ᾱ_K = 0.347 for the default range, so x_K is
            *not* pure noise), ``"cosine"`` (ends at noise, what a sampler that starts
            from N(0, I) needs), or β_1 to β_K of your own, shape [K], all between 0 and 1.
        beta_start: β_1 of the linear schedule.
        beta_end: β_K of the linear schedule.

    Raises:
        InputError: if the schedule is unknown or K or the range of β is out of bounds.

    Examples:
        >>> import torch
        >>> from torchrl_td.modules import NoiseSchedule
        >>> schedule = NoiseSchedule(100)
        >>> round(schedule.alpha_bar[100].item(), 3)
        0.347
        >>> x = torch.randn(4, 16, 11)
        >>> schedule.add_noise(x, torch.randn_like(x), torch.full((4,), 5)).shape
        torch.Size([4, 16, 11])
    """

    beta: Tensor

    def __init__(
        self,
        denoising_steps: int = 100,
        schedule: Schedule | Tensor = "linear",
        beta_start: float = 1e-3,
        beta_end: float = 2e-2,
    ) -> None:
        super().__init__()
        check_whole("denoising_steps", denoising_steps, 1)
        if not 0 < beta_start <= beta_end < 1:
            raise InputError(
                f"beta_start and beta_end must satisfy 0 < beta_start <= beta_end < 1, "
                f"got {beta_start} and {beta_end}"
            )
        if isinstance(schedule, Tensor):
            beta = schedule.detach().to("cpu", torch.float64)
            if beta.shape != (denoising_steps,) or not ((beta > 0) & (beta < 1)).all():
                raise InputError(
                    f"a schedule of {denoising_steps} steps is as many numbers between 0 and 1, "
                    f"got shape {list(beta.shape)} from {beta.min():g} to {beta.max():g}"
                )
        elif schedule == "linear":
            beta = torch.linspace(
                beta_start, beta_end, denoising_steps, dtype=torch.float64, device="cpu"
            )
        elif schedule == "cosine":
            beta = _cosine_beta(denoising_steps)
        else:
            allowed = ", ".join(get_args(Schedule))
            raise InputError(f"unknown noise schedule {schedule!r}; allowed are {allowed}")
        self.denoising_steps = denoising_steps
        self.schedule = "given" if isinstance(schedule, Tensor) else schedule
        # Entry 0 is the clean sample, so that step k is entry k and k = 1 needs no special case.
        beta = torch.cat([beta.new_zeros(1), beta])
        alpha_bar = torch.cumprod(1 - beta, 0)
        self.register_buffer("beta", beta.float(), persistent=False)
        self.register_buffer("alpha_bar", alpha_bar.float(), persistent=False)
        self.register_buffer("signal_scale", alpha_bar.sqrt().float(), persistent=False)
        self.register_buffer("noise_scale", (1 - alpha_bar).sqrt().float(), persistent=False)
        # Host copies in double precision: sampling coefficients are Python numbers, which cost
        # no launch and no synchronisation inside the planning loop.
        self._beta = beta.tolist()
        self._alpha_bar = alpha_bar.tolist()

    def add_noise(self, x: Tensor, noise: Tensor, step: Tensor | int) -> Tensor:
        """Draws x_k given x_0: √ᾱ_k x_0 + √(1 − ᾱ_k) ε (Algorithm 1, line 1).

        Args:
            x: clean sample, shape [B, ...].
            noise: standard normal noise of the same shape.
            step: k in 0..K, an int or a tensor of shape [B], whose numbers are not checked, for
                that would wait for the device.

        Raises:
            InputError: if the step is out of its range.
        """
        if isinstance(step, int):
            self._check_step(step, 0)
            alpha_bar = self._alpha_bar[step]
            return math.sqrt(alpha_bar) * x + math.sqrt(1 - alpha_bar) * noise
        shape = (-1,) + (1,) * (x.ndim - 1)
        return self.signal_scale[step].view(shape) * x + self.noise_scale[step].view(shape) * noise

    def predict_clean(self, x: Tensor, predicted_noise: Tensor, step: int) -> Tensor:
        """The clean sample that x_k and a noise prediction imply (eq. 10 solved for x_0).

        Raises:
            InputError: if the step, k in 0..K, is out of its range.
        """
        self._check_step(step, 0)
        alpha_bar = self._alpha_bar[step]
        return (x - math.sqrt(1 - alpha_bar) * predicted_noise) / math.sqrt(alpha_bar)

    def clipped_noise(self, x: Tensor, predicted_noise: Tensor, step: int, limit: float) -> Tensor:
        """The noise prediction nearest to one given by which the clean sample lies within ±limit.

        From pure noise a small error of the prediction is a large one of the clean sample that it
        implies, by 1 / √ᾱ_k, which no later step takes back.

        Args:
            x: x_k, shape [B, ...].
            predicted_noise: ε̂, same shape.
            step: k in 1..K.
            limit: the largest entry of the clean sample, of either sign.

        Raises:
            InputError: if the step is out of its range.
        """
        self._check_step(step, 1)
        alpha_bar = self._alpha_bar[step]
        clean = self.predict_clean(x, predicted_noise, step).clamp(-limit, limit)
        return (x - math.sqrt(alpha_bar) * clean) / math.sqrt(1 - alpha_bar)

    def ddpm_step(
        self,
        x: Tensor,
        predicted_noise: Tensor,
        step: int,
        noise: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """One step of ancestral sampling, x_k to x_{k−1} (eqs. 9 and 10).

        The variance is the posterior's, β̃_k = β_k (1 − ᾱ_{k−1}) / (1 − ᾱ_k), which is zero at
        k = 1: the last step adds no noise.

        Args:
            x: x_k, shape [B, ...].
            predicted_noise: ε̂, same shape.
            step: k in 1..K.
            noise: standard normal noise, same shape; ``None`` returns the mean.
            temperature: factor on the standard deviation.

        Raises:
            InputError: if the step is out of its range.
        """
        self._check_step(step, 1)
        beta, alpha_bar, alpha_bar_before = (
            self._beta[step],
            self._alpha_bar[step],
            self._alpha_bar[step - 1],
        )
        mean = (x - beta / math.sqrt(1 - alpha_bar) * predicted_noise) / math.sqrt(1 - beta)
        std = temperature * math.sqrt(beta * (1 - alpha_bar_before) / (1 - alpha_bar))
        return mean if noise is None or std == 0.0 else mean + std * noise

    def ddim_step(self, x: Tensor, predicted_noise: Tensor, step: int, to_step: int) -> Tensor:
        """One deterministic DDIM step, x_k to x_j for any j < k.

        Args:
            x: x_k, shape [B, ...].
            predicted_noise: ε̂, same shape.
            step: k in 1..K.
            to_step: j in 0..k−1; 0 gives the clean sample.

        Raises:
            InputError: if either is out of its range.
        """
        self._check_step(step, 1)
        if type(to_step) is not int or not 0 <= to_step < step:
            check_whole("to_step", _as_whole(to_step), 0, int(step) - 1, "before step")
        alpha_bar = self._alpha_bar[to_step]
        clean = self.predict_clean(x, predicted_noise, step)
        return math.sqrt(alpha_bar) * clean + math.sqrt(1 - alpha_bar) * predicted_noise

    def signal_left(self, step: int) -> float:
        """√ᾱ_k, the share of the clean sample in x_k; 0 where x_k is pure noise.

        Args:
            step: k in 0..K.

        Raises:
            InputError: if the step is out of its range.
        """
        self._check_step(step, 0)
        return math.sqrt(self._alpha_bar[step])

    def sampling_steps(self, start: int, evaluations: int | None = None) -> list[int]:
        """The denoising steps at which a sampler asks the network, evenly spaced.

        They go down from ``start``; from the last of them, which is 1 only if all are visited,
        a sampler steps to the clean sample.

        Args:
            start: the step the sample is at, 0..K; 0 visits none.
            evaluations: how many to visit, 1..start; ``None`` visits all.

        Raises:
            InputError: if either is out of its range.

        Examples:
            >>> NoiseSchedule(100).sampling_steps(5, 2)
            [5, 2]
        """
        check_whole("refine_steps", start, 0, self.denoising_steps, "denoising_steps")
        evaluations = start if evaluations is None else evaluations
        if start == 0:
            return []
        check_whole("evaluations", evaluations, 1, start, "refine_steps")
        return [round(start * (evaluations - i) / evaluations) for i in range(evaluations)]

    def _check_step(self, step: int, low: int) -> None:
        """Raises where a step is none: a list would take -1 for its last.

        What is a step, as in planning, is not looked at further.
        """
        if type(step) is not int or not low <= step <= self.denoising_steps:
            check_whole("step", _as_whole(step), low, self.denoising_steps, "denoising_steps")


def _as_whole(step: Any) -> Any:
    """As an int what stands for one, as an entry of ``torch.arange`` does."""
    try:
        return step if isinstance(step, bool) else operator.index(step)
    except TypeError:
        return step


def _cosine_beta(denoising_steps: int, offset: float = 0.008) -> Tensor:
    """β of the cosine schedule (Nichol & Dhariwal 2021), clipped at 0.999."""
    t = torch.arange(denoising_steps + 1, dtype=torch.float64, device="cpu") / denoising_steps
    alpha_bar = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)
