"""Every setting of a run, typed, with the default it has where no YAML gives one.

What a setting means, its unit and the reason for its value stand beside it in the YAMLs under
``configs/``; what it may hold, in :mod:`torchrl_td.config.limits`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class TaskConfig:
    """What is to be solved; one YAML a task under ``configs/task``."""

    name: str = "???"
    env: str | None = "???"
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    reset_options: dict[str, Any] = field(default_factory=dict)
    exact_goal: bool = False
    max_episode_steps: int = 1000
    horizon: int = 32
    strided_horizon: int = 8
    stride: int = 1
    scored: bool = False
    pays_any_goal: bool = False
    strided_steps: int = 15_000
    refine_steps: int = 5
    guidance_scale: float = 1.2
    target_return: float = 1.0
    returns_scale: float = 1.0
    learning_rate: float = 2e-4
    training_steps: int = 200_000
    score_min: float | None = None
    score_max: float | None = None
    success_key: str | None = None
    score_key: str | None = None
    observation_keys: list[str] | None = None


@dataclass
class DatasetConfig:
    """Where the offline episodes come from.

    ``source`` may also be one of the short names in ``sources``, as in ``dataset.source=d4rl``.
    """

    source: str = "???"
    sources: dict[str, str] = field(default_factory=dict)
    validation_share: float = 0.05


@dataclass
class AlgorithmConfig:
    """Which algorithm, and the settings of the baselines; null for what one does not read."""

    name: str = "trajectory_diffuser"
    hidden_dims: list[int] | None = None
    members: int | None = None
    context: int | None = None
    width: int | None = None
    layers: int | None = None
    heads: int | None = None
    dropout: float | None = None
    weight_decay: float | None = None
    discount: float | None = None
    tau: float | None = None
    normalize_rewards: bool | None = None
    expectile: float | None = None
    temperature: float | None = None
    alpha: float | None = None
    policy_delay: int | None = None
    value_scale: float | None = None


@dataclass
class GeneratorConfig:
    """The sequence generator."""

    kind: str = "transformer"
    width: int = 512
    layers: int = 4
    heads: int = 4
    feedforward: int | None = None
    causal: bool = True
    predict: str = "state"
    returns_modulate: bool = False
    members: int = 1


@dataclass
class RefinerConfig:
    """The diffusion refiner and its noise schedule."""

    kind: str = "unet"
    hidden_dims: list[int] = field(default_factory=lambda: [256, 256])
    channels: int = 64
    multipliers: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    kernel_size: int = 5
    embedding_dim: int = 64
    embedding_hidden_dim: int = 128
    denoising_steps: int = 100
    schedule: str = "linear"
    beta_start: float = 1e-3
    beta_end: float = 2e-2
    coordinates: str = "absolute"
    condition_dropout: float = 0.5
    max_step: int | None = None
    batch_size: int | None = None


@dataclass
class InverseDynamicsConfig:
    """The inverse dynamics."""

    hidden_dims: list[int] = field(default_factory=lambda: [256, 256])
    input: str = "states"
    plan_states: int | None = None
    returns_modulate: bool = False
    members: int = 1


@dataclass
class CriticConfig:
    """The critic that chooses among candidates."""

    enabled: bool = False
    hidden_dims: list[int] = field(default_factory=lambda: [128, 128])


@dataclass
class ValueConfig:
    """The value that scores the data's plans, for planners that are asked for a score."""

    enabled: bool = False
    hidden_dims: list[int] = field(default_factory=lambda: [256, 256])
    discount: float = 0.99
    members: int = 1
    combine: str = "lowest"
    expectile: float = 0.95
    target_decay: float = 0.995
    played_goal_share: float = 0.0
    symlog_unit: float | None = None


@dataclass
class ReturnsLimitConfig:
    """The most that plans drafted at once for a return are asked for at a reset."""

    enabled: bool = False
    hidden_dims: list[int] = field(default_factory=lambda: [256, 256])
    expectile: float = 0.999


@dataclass
class PlannerConfig:
    """How the trained parts plan; all of it can be changed after training."""

    refine_steps: int = 5
    sampler: str = "ddpm"
    evaluations: int | None = None
    init: str = "draft"
    guidance_scale: float = 1.2
    temperature: float = 1.0
    add_noise: bool = True
    clip_range: float | None = None
    candidates: int = 1
    plan_scores: list[float] | None = None
    replan_every: int = 1
    warm_start: str = "none"
    refresh_every: int = 10
    refresh_distance: float = 0.1
    returns_floor_share: float | None = None


@dataclass
class TrainingConfig:
    """The training loop."""

    steps: int = 200_000
    batch_size: int = 32
    learning_rate: float = 2e-4
    refiner_weight_decay: float = 1e-4
    decay_steps: int = 100_000
    final_learning_rate_share: float = 0.01
    ema_decay: float = 0.995
    gradient_clip: float | None = None
    clip_each_part: bool = False
    return_tilt: float = 0.0
    warmup_steps: int = 0
    log_every: int = 100
    validate_every: int = 1000
    evaluate_every: int = 0
    checkpoint_every: int = 5000
    keep_checkpoints: int = 2
    stop_after: int | None = None
    patience: int | None = None
    explosion: float | None = 1000.0
    compile: bool = False
    cudagraph: bool = False
    autocast: bool = False
    threads: int | None = None


@dataclass
class EvaluationConfig:
    """Playing the environment with the trained planner."""

    episodes: int = 40
    workers: int = 0
    seed: int = 1000
    deterministic: bool = True
    compile: str = "auto"
    target_return: float = 1.0
    baseline: str | None = None


@dataclass
class LoggerConfig:
    """Where metrics go beside metrics.csv."""

    kind: str = "csv"
    project: str = "torchrl_td"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    name: str | None = None
    mode: str = "offline"
    artifacts: bool = True
    video: bool = False
    pictures: bool = False


@dataclass
class Config:
    """A whole run."""

    seed: int = 0
    device: str = "auto"
    output_dir: str = "outputs"
    resume: str | None = None
    init_from: str | None = None
    init_normalizer: str = "keep"
    preset: str = "???"
    progress: bool = True
    task: TaskConfig = field(default_factory=TaskConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    refiner: RefinerConfig = field(default_factory=RefinerConfig)
    inverse_dynamics: InverseDynamicsConfig = field(default_factory=InverseDynamicsConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    value: ValueConfig = field(default_factory=ValueConfig)
    returns_limit: ReturnsLimitConfig = field(default_factory=ReturnsLimitConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


def plan_horizon(config: Config) -> int:
    """H, the states of a run's plans with the present one."""
    task = config.task
    return task.strided_horizon if config.generator.kind == "plan" else task.horizon


def plan_stride(config: Config) -> int:
    """m, the steps between the states of a run's plans: 1 but for ``generator.kind=plan``."""
    return config.task.stride if config.generator.kind == "plan" else 1
