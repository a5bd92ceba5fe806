"""Builds the parts of a Trajectory Diffuser from settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from torchrl_td.config import Config, PlannerConfig
from torchrl_td.data.normalizer import Normalizer, displacement_scale
from torchrl_td.errors import InputError, first_line
from torchrl_td.modules.generator import TrajectoryGenerator
from torchrl_td.modules.inverse_dynamics import InverseDynamics
from torchrl_td.modules.noise_schedule import NoiseSchedule
from torchrl_td.modules.plan_coordinates import PlanCoordinates
from torchrl_td.modules.plan_critic import PlanCritic
from torchrl_td.modules.refiner import DiffusionRefiner
from torchrl_td.modules.trajectory_planner import TrajectoryPlanner
from torchrl_td.networks import MLP, RecurrentTrajectoryModel, TemporalUNet, TrajectoryTransformer


@dataclass
class Scales:
    """What is measured on the (normalised) dataset beside the normaliser.

    Attributes:
        displacement: root mean square of s_{t+j} − s_t, shape [H, O].
        returns_change: root mean square of the scaled returns-to-go's change in a step, shape [1].

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_td.modules.trajectory_diffuser import Scales
        >>> time = torch.arange(10.0).unsqueeze(-1)
        >>> data = TensorDict(
        ...     observation=2 * time,
        ...     returns_to_go=10 - time,
        ...     episode=torch.zeros(10, dtype=torch.int64),
        ...     next=TensorDict(returns_to_go=9 - time, batch_size=[10]),
        ...     batch_size=[10],
        ... )
        >>> scales = Scales.fit(data, horizon=3)
        >>> scales.displacement.flatten(), scales.returns_change
        (tensor([0., 2., 4.]), tensor([1.]))
    """

    displacement: Tensor
    returns_change: Tensor

    @classmethod
    def fit(cls, normalized: TensorDictBase, horizon: int) -> Scales:
        """Measures them on a normalised dataset [N]."""
        change = normalized["next", "returns_to_go"] - normalized["returns_to_go"]
        returns_change = change.double().square().mean().sqrt().float().clamp(min=1e-6)
        return cls(displacement_scale(normalized, horizon), returns_change.view(1))

    @classmethod
    def empty(cls, horizon: int, observation_dim: int) -> Scales:
        """Of the right shapes, for a checkpoint to fill."""
        return cls(torch.ones(horizon, observation_dim), torch.ones(1))


@contextlib.contextmanager
def _room() -> Iterator[None]:
    """Networks that memory cannot hold become one line."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise InputError(
            f"the networks do not fit into memory ({first_line(error)}); lower generator.width, "
            "refiner.channels, refiner.multipliers or other sizes"
        ) from error


class TrajectoryDiffuser(nn.Module):
    """The trained parts together, as a checkpoint holds them.

    Args:
        config: the run's settings.
        observation_dim: O.
        action_dim: A.
        normalizer: fitted on the dataset.
        scales: likewise.

    Raises:
        InputError: the settings' sizes make no networks, or ones that memory cannot hold.

    Examples:
        >>> import torch
        >>> from torchrl_td.config import Config, GeneratorConfig, RefinerConfig, TaskConfig
        >>> from torchrl_td.data import Normalizer
        >>> from torchrl_td.modules.trajectory_diffuser import Scales, TrajectoryDiffuser
        >>> sizes = {"generator": GeneratorConfig(width=32), "refiner": RefinerConfig(channels=8)}
        >>> config = Config(task=TaskConfig(horizon=8), **sizes)
        >>> normalizer = Normalizer(torch.zeros(3), torch.ones(3))
        >>> model = TrajectoryDiffuser(config, 3, 2, normalizer, Scales.empty(8, 3))
        >>> history = torch.randn(4, 7, 3), torch.rand(4, 7, 1), torch.ones(4, 7, dtype=torch.bool)
        >>> draft, _, plan, action = model.planner(config.planner).plan(*history)
        >>> plan.shape, action.shape
        (torch.Size([4, 8, 3]), torch.Size([4, 2]))
    """

    @_room()
    def __init__(
        self,
        config: Config,
        observation_dim: int,
        action_dim: int,
        normalizer: Normalizer,
        scales: Scales,
    ) -> None:
        super().__init__()
        self.config = config
        self.horizon = config.task.horizon
        step_scale = scales.displacement[1]
        self.normalizer = normalizer
        self.generator = TrajectoryGenerator(
            _sequence_network(config, observation_dim),
            predict=config.generator.predict,
            change_scale=step_scale,
            returns_change_scale=scales.returns_change,
        )
        settings = config.refiner
        displacement = settings.coordinates == "displacement"
        self.refiner_network = _noise_network(config, observation_dim)
        self.coordinates = PlanCoordinates(scales.displacement if displacement else None)
        self.schedule = NoiseSchedule(
            settings.denoising_steps, settings.schedule, settings.beta_start, settings.beta_end
        )
        self.inverse_dynamics = InverseDynamics(
            MLP(2 * observation_dim, tuple(config.inverse_dynamics.hidden_dims), action_dim),
            change_scale=step_scale if config.inverse_dynamics.input == "change" else None,
        )
        self.critic = None
        if config.critic.enabled:
            hidden = tuple(config.critic.hidden_dims)
            self.critic = PlanCritic(MLP(observation_dim + action_dim, hidden, 1))

    def refiner(self, settings: PlannerConfig) -> DiffusionRefiner:
        """A sampler with these settings around the shared noise model."""
        return DiffusionRefiner(
            self.refiner_network,
            self.schedule,
            refine_steps=settings.refine_steps,
            sampler=settings.sampler,
            evaluations=settings.evaluations,
            guidance_scale=settings.guidance_scale,
            temperature=settings.temperature,
            add_noise=settings.add_noise,
            init=settings.init,
            coordinates=self.coordinates,
        )

    def planner(self, settings: PlannerConfig) -> TrajectoryPlanner:
        """A planner with these settings around the shared parts."""
        return TrajectoryPlanner(
            self.generator,
            self.refiner(settings),
            self.inverse_dynamics,
            horizon=self.horizon,
            critic=self.critic,
            candidates=settings.candidates,
        )

    def parameter_counts(self) -> dict[str, int]:
        """Number of trained parameters of each part."""
        parts: dict[str, nn.Module | None] = {
            "generator": self.generator,
            "refiner": self.refiner_network,
            "inverse_dynamics": self.inverse_dynamics,
            "critic": self.critic,
        }
        return {
            name: sum(p.numel() for p in part.parameters())
            for name, part in parts.items()
            if part is not None
        }


def _sequence_network(config: Config, observation_dim: int) -> nn.Module:
    settings = config.generator
    if settings.kind != "transformer":
        return RecurrentTrajectoryModel(
            observation_dim, settings.kind, settings.width, settings.layers
        )
    return TrajectoryTransformer(
        observation_dim,
        2 * config.task.horizon - 2,
        settings.width,
        settings.layers,
        settings.heads,
        settings.feedforward,
        settings.causal,
    )


def _noise_network(config: Config, observation_dim: int) -> TemporalUNet:
    settings = config.refiner
    return TemporalUNet(
        observation_dim,
        settings.channels,
        tuple(settings.multipliers),
        settings.kernel_size,
        embedding_dim=settings.embedding_dim,
        embedding_hidden_dim=settings.embedding_hidden_dim,
    )
