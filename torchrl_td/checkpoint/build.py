"""Builds the parts of a Trajectory Diffuser from a run's settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn
from torchrl.modules import MLP

from torchrl_td.config import (
    FROM_NOISE,
    Config,
    GeneratorConfig,
    InverseDynamicsConfig,
    PlannerConfig,
    limits_returns,
    plan_horizon,
)
from torchrl_td.data.normalizer import Normalizer
from torchrl_td.errors import InputError, first_line
from torchrl_td.modules import (
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
from torchrl_td.modules.generator import Predict
from torchrl_td.modules.noise_schedule import Schedule
from torchrl_td.modules.plan_parts import Combine, Ensemble
from torchrl_td.modules.trajectory_diffuser import Scales, TrajectoryDiffuser
from torchrl_td.modules.value_guidance import GuidedDiffuser, NoisyPlanValue
from torchrl_td.networks import (
    ModulatedMLP,
    PlanDenoiser,
    RecurrentTrajectoryModel,
    TemporalUNet,
    TrajectoryTransformer,
)
from torchrl_td.networks.recurrent import Cell

_STEP_EMBEDDING = 16  # numbers that tell a value the denoising step
_SAMPLER = (
    "refine_steps",
    "sampler",
    "evaluations",
    "init",
    "guidance_scale",
    "temperature",
    "add_noise",
    "clip_range",
)


def build_model(
    config: Config,
    observation_dim: int,
    action_dim: int,
    normalizer: Normalizer,
    scales: Scales,
    choices: bool = False,
) -> TrajectoryDiffuser:
    """The untrained parts that a run's settings describe.

    Args:
        config: the run's settings.
        observation_dim: O.
        action_dim: A.
        normalizer: fitted on the dataset.
        scales: likewise.
        choices: whether actions are choices among A.

    Raises:
        InputError: the settings' sizes make no networks, or ones that memory cannot hold.

    Examples:
        >>> import torch
        >>> from torchrl_td.checkpoint.build import build_model, sampler_settings
        >>> from torchrl_td.config import Config, GeneratorConfig, RefinerConfig, TaskConfig
        >>> from torchrl_td.data import Normalizer
        >>> from torchrl_td.modules.trajectory_diffuser import Scales
        >>> sizes = {"generator": GeneratorConfig(width=32), "refiner": RefinerConfig(channels=8)}
        >>> config = Config(task=TaskConfig(horizon=8), **sizes)
        >>> normalizer = Normalizer(torch.zeros(3), torch.ones(3))
        >>> model = build_model(config, 3, 2, normalizer, Scales.empty(8, 3))
        >>> history = torch.randn(4, 7, 3), torch.rand(4, 7, 1), torch.ones(4, 7, dtype=torch.bool)
        >>> planner = model.planner(**sampler_settings(config.planner))
        >>> draft, _, plan, action = planner.plan(*history)
        >>> plan.shape, action.shape
        (torch.Size([4, 8, 3]), torch.Size([4, 2]))
    """
    with _memory_errors_in_one_line():
        # The order in which the networks are made decides their weights under a seed.
        parts: dict[str, Any] = {
            "generator": _generator(config, observation_dim, scales),
            "refiner_network": _noise_network(config, observation_dim),
            "schedule": _noise_schedule(config),
            "inverse_dynamics": _inverse_dynamics(
                config, observation_dim, action_dim, scales, choices
            ),
            "normalizer": normalizer,
            "horizon": plan_horizon(config),
            "coordinates": _coordinates(config, scales),
            "critic": _critic(config, observation_dim + action_dim),
            "plan_value": _plan_value(config, observation_dim),
            "returns_limit": _returns_limit(config, observation_dim),
        }
        if config.algorithm.name == "diffuser":
            value, scale = _noisy_plan_value(config, observation_dim), config.algorithm.value_scale
            return GuidedDiffuser(noisy_value=value, value_scale=scale or 0.0, **parts)
        return TrajectoryDiffuser(**parts)


def sampler_settings(settings: PlannerConfig) -> dict[str, Any]:
    """The settings of the planner that its refiner takes, by name."""
    return {name: getattr(settings, name) for name in _SAMPLER}


def plan_settings(settings: PlannerConfig) -> dict[str, Any]:
    """The settings that :meth:`TrajectoryDiffuser.planner` takes, by name."""
    names = (*_SAMPLER, "candidates", "plan_scores")
    return {name: getattr(settings, name) for name in names}


def _relu_mlp(width: int, out: int, hidden: list[int], **kwargs: Any) -> nn.Module:
    return MLP(width, out, num_cells=list(hidden), activation_class=nn.ReLU, **kwargs)


def _together(networks: list[nn.Module]) -> nn.Module:
    """The only network, or an ensemble."""
    return networks[0] if len(networks) == 1 else Ensemble(networks)


def _conditioned_mlp(
    config: Config,
    settings: GeneratorConfig | InverseDynamicsConfig,
    width: int,
    out: int,
    hidden: list[int],
) -> nn.Module:
    """A part's MLP of inputs [..., width], of which the last is the condition.

    Where that is a return it may scale and shift the layers, and there may be several MLPs.
    """
    if config.value.enabled:
        return _relu_mlp(width, out, hidden)
    make = ModulatedMLP if settings.returns_modulate else _relu_mlp
    return _together([make(width, out, hidden) for _ in range(settings.members)])


def _generator(
    config: Config, observation_dim: int, scales: Scales
) -> TrajectoryGenerator | PlanGenerator | None:
    if config.algorithm.name in FROM_NOISE:
        return None
    settings = config.generator
    if settings.kind == "plan":
        out = (plan_horizon(config) - 1) * observation_dim
        hidden = [settings.width] * settings.layers
        network = _conditioned_mlp(config, settings, observation_dim + 1, out, hidden)
        return PlanGenerator(network, scales.displacement)
    return TrajectoryGenerator(
        _sequence_network(config, observation_dim),
        predict=cast(Predict, settings.predict),
        change_scale=scales.displacement[1],
        returns_change_scale=scales.returns_change,
    )


def _plan_value(config: Config, observation_dim: int) -> PlanValue | None:
    if not config.value.enabled:
        return None
    hidden = list(config.value.hidden_dims)
    norms = [{"normalized_shape": width} for width in hidden]
    networks = [
        _relu_mlp(observation_dim, 3, hidden, norm_class=nn.LayerNorm, norm_kwargs=norms)
        for _ in range(config.value.members)
    ]
    settings = config.value
    return PlanValue(
        _together(networks),
        combine=cast(Combine, settings.combine),
        symlog_unit=settings.symlog_unit,
    )


def _returns_limit(config: Config, observation_dim: int) -> ReturnsLimit | None:
    if not limits_returns(config):
        return None
    with torch.random.fork_rng(devices=[]):  # all else is as it is without it
        network = _relu_mlp(observation_dim, 1, config.returns_limit.hidden_dims)
    return ReturnsLimit(network, expectile=config.returns_limit.expectile)


def _noisy_plan_value(config: Config, observation_dim: int) -> NoisyPlanValue:
    width = plan_horizon(config) * observation_dim + _STEP_EMBEDDING
    network = _relu_mlp(width, 1, config.algorithm.hidden_dims or [])
    return NoisyPlanValue(network, _STEP_EMBEDDING)


def _sequence_network(config: Config, observation_dim: int) -> nn.Module:
    settings = config.generator
    if settings.kind != "transformer":
        return RecurrentTrajectoryModel(
            observation_dim, cast(Cell, settings.kind), settings.width, settings.layers
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


def _noise_network(config: Config, observation_dim: int) -> TemporalUNet | PlanDenoiser:
    settings = config.refiner
    if settings.kind == "mlp":
        hidden = tuple(settings.hidden_dims)
        return PlanDenoiser(observation_dim, plan_horizon(config), hidden)
    return TemporalUNet(
        observation_dim,
        settings.channels,
        tuple(settings.multipliers),
        settings.kernel_size,
        embedding_dim=settings.embedding_dim,
        embedding_hidden_dim=settings.embedding_hidden_dim,
    )


def _noise_schedule(config: Config) -> NoiseSchedule:
    settings = config.refiner
    return NoiseSchedule(
        settings.denoising_steps,
        cast(Schedule, settings.schedule),
        settings.beta_start,
        settings.beta_end,
    )


def _coordinates(config: Config, scales: Scales) -> PlanCoordinates:
    displacement = config.refiner.coordinates == "displacement"
    return PlanCoordinates(scales.displacement if displacement else None)


def _inverse_dynamics(
    config: Config, observation_dim: int, action_dim: int, scales: Scales, choices: bool
) -> InverseDynamics | PlanInverseDynamics:
    settings = config.inverse_dynamics
    if config.generator.kind == "plan":
        states = settings.plan_states or plan_horizon(config) - 1
        width = (1 + states) * observation_dim + 1
        return PlanInverseDynamics(
            _conditioned_mlp(config, settings, width, action_dim, settings.hidden_dims),
            scales.displacement,
            plan_states=states,
            choices=choices,
        )
    network = _relu_mlp(2 * observation_dim, action_dim, settings.hidden_dims)
    change = settings.input == "change"
    scale = scales.displacement[1] if change else None
    return InverseDynamics(network, change_scale=scale, choices=choices)


def _critic(config: Config, width: int) -> PlanCritic | None:
    if not config.critic.enabled:
        return None
    return PlanCritic(_relu_mlp(width, 1, config.critic.hidden_dims))


@contextlib.contextmanager
def _memory_errors_in_one_line() -> Iterator[None]:
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
