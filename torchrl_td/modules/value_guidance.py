"""Guidance by the gradient of a value, as in Diffuser (arXiv 2205.09991)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from torchrl_td.modules.noise_schedule import NoiseSchedule
from torchrl_td.modules.refiner import DiffusionRefiner
from torchrl_td.modules.trajectory_diffuser import TrajectoryDiffuser


class NoisyPlanValue(nn.Module):
    """The return that a noised plan leads to.

    Args:
        network: an MLP from a flattened plan [B, H·O] and an embedding [B, E] to [B, 1].
        embedding_dim: E, of the denoising step; even.

    Examples:
        >>> import torch
        >>> from torchrl_td.modules.value_guidance import NoisyPlanValue
        >>> from torchrl.modules import MLP
        >>> value = NoisyPlanValue(MLP(8 * 3 + 16, 1, num_cells=[32]), embedding_dim=16)
        >>> value(torch.randn(4, 8, 3), torch.tensor([1, 5, 9, 100])).shape
        torch.Size([4, 1])
    """

    def __init__(self, network: nn.Module, embedding_dim: int = 16) -> None:
        super().__init__()
        self.network, self.embedding_dim = network, embedding_dim

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        """Value [B, 1] of noised plans [B, H, O] at their denoising steps [B]."""
        half = self.embedding_dim // 2
        rate = torch.arange(half, device=x.device) * (-math.log(10_000) / max(half - 1, 1))
        angle = step.float().unsqueeze(-1) * rate.exp()
        return self.network(x.flatten(1), torch.cat([angle.sin(), angle.cos()], -1))


class ValueGuidedNoise(nn.Module):
    """A noise network whose samples a value's gradient draws towards high returns.

    ε̂ − s·σ_k·∇V(x_k, k), by which a DDPM step moves its mean by s times (about) its variance times
    the gradient, as Diffuser's guide does.

    Args:
        network: predicts the noise; its condition is dropped.
        value: of noised plans.
        schedule: the noise schedule.
        scale: s.

    Examples:
        >>> import torch
        >>> from torchrl_td.modules import NoiseSchedule
        >>> from torchrl_td.modules.value_guidance import NoisyPlanValue, ValueGuidedNoise
        >>> from torchrl.modules import MLP
        >>> from torchrl_td.networks import TemporalUNet
        >>> unet, value = TemporalUNet(3, 16, (1, 2)), NoisyPlanValue(MLP(40, 1, num_cells=[32]))
        >>> guided = ValueGuidedNoise(unet, value, NoiseSchedule(20, "cosine"), scale=1.0)
        >>> guided(torch.randn(4, 8, 3), torch.full((4,), 7), torch.rand(4, 1)).shape
        torch.Size([4, 8, 3])
    """

    def __init__(
        self, network: nn.Module, value: nn.Module, schedule: NoiseSchedule, scale: float
    ) -> None:
        super().__init__()
        self.network, self.value, self.schedule, self.scale = network, value, schedule, scale

    @property
    def observation_dim(self) -> int:
        """O, width of a state."""
        return int(self.network.observation_dim)  # type: ignore[arg-type]

    @property
    def horizon_multiple(self) -> int:
        """What a plan's horizon must be divisible by."""
        return int(self.network.horizon_multiple)  # type: ignore[arg-type]

    def forward(
        self, x: Tensor, step: Tensor, condition: Tensor, keep_condition: Tensor | None = None
    ) -> Tensor:
        """Predicts the noise, guided; arguments as the network's."""
        dropped = torch.zeros_like(step, dtype=torch.bool)
        predicted = self.network(x, step, condition, dropped)
        with torch.inference_mode(False), torch.enable_grad():
            plan = x.clone().detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.value(plan, step).sum(), plan)
        sigma = self.schedule.noise_scale[step.long()]  # [B]
        return predicted - self.scale * sigma.view(-1, 1, 1) * gradient


class GuidedDiffuser(TrajectoryDiffuser):
    """The parts of a planner whose plans are guided by a value, for Diffuser.

    Args:
        noisy_value: of noised plans.
        value_scale: factor on its gradient.
        **parts: as :class:`TrajectoryDiffuser` takes them.
    """

    def __init__(self, *, noisy_value: NoisyPlanValue, value_scale: float, **parts: Any) -> None:
        super().__init__(**parts)
        self.noisy_value, self.value_scale = noisy_value, value_scale

    def refiner(self, **settings: Any) -> DiffusionRefiner:
        """A sampler around the guided noise model, with a :class:`DiffusionRefiner`'s settings."""
        network = ValueGuidedNoise(
            self.refiner_network, self.noisy_value, self.schedule, self.value_scale
        )
        settings = {**settings, "guidance_scale": 1.0}  # the condition is not used
        return DiffusionRefiner(network, self.schedule, coordinates=self.coordinates, **settings)

    def parameter_counts(self) -> dict[str, int]:
        value = sum(p.numel() for p in self.noisy_value.parameters())
        return {**super().parameter_counts(), "noisy_value": value}
