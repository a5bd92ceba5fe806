"""Every setting, typed and checked: a wrong key or value stops a run before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from torchrl_td.errors import TDError


@dataclass
class TaskConfig:
    """What is to be solved; one YAML a task under ``configs/task``."""

    name: str = "???"
    env: str = "???"
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    reset_options: dict[str, Any] = field(default_factory=dict)
    max_episode_steps: int = 1000
    horizon: int = 32
    refine_steps: int = 5
    guidance_scale: float = 1.2
    target_return: float = 1.0
    returns_scale: float = 1.0
    learning_rate: float = 2e-4
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
class GeneratorConfig:
    """The sequence generator."""

    kind: str = "transformer"
    width: int = 512
    layers: int = 4
    heads: int = 4
    feedforward: int | None = None
    causal: bool = True
    predict: str = "state"


@dataclass
class RefinerConfig:
    """The diffusion refiner and its noise schedule."""

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


@dataclass
class InverseDynamicsConfig:
    """The inverse dynamics."""

    hidden_dims: list[int] = field(default_factory=lambda: [256, 256])
    input: str = "states"


@dataclass
class CriticConfig:
    """The critic that chooses among candidates."""

    enabled: bool = False
    hidden_dims: list[int] = field(default_factory=lambda: [128, 128])


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
    candidates: int = 1
    replan_every: int = 1
    warm_start: str = "none"
    refresh_every: int = 10
    refresh_distance: float = 0.5
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
    log_every: int = 100
    validate_every: int = 1000
    evaluate_every: int = 0
    checkpoint_every: int = 5000
    keep_checkpoints: int = 2
    stop_after: int | None = None
    patience: int | None = None
    explosion: float | None = 1000.0
    compile: bool = False
    autocast: bool = False
    threads: int | None = None


@dataclass
class EvaluationConfig:
    """Playing the environment with the trained planner."""

    episodes: int = 40
    workers: int = 0
    seed: int = 1000
    deterministic: bool = True
    target_return: float = 1.0


@dataclass
class LoggerConfig:
    """Where metrics go beside metrics.csv."""

    kind: str = "csv"
    project: str = "torchrl_td"
    mode: str = "offline"
    video: bool = False
    pictures: bool = False


@dataclass
class Config:
    """A whole run."""

    seed: int = 0
    device: str = "auto"
    output_dir: str = "outputs"
    resume: str | None = None
    preset: str = "???"
    progress: bool = True
    task: TaskConfig = field(default_factory=TaskConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    refiner: RefinerConfig = field(default_factory=RefinerConfig)
    inverse_dynamics: InverseDynamicsConfig = field(default_factory=InverseDynamicsConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


_CHOICES: dict[str, tuple[str, ...]] = {
    "generator.kind": ("transformer", "gru", "lstm"),
    "generator.predict": ("state", "change"),
    "refiner.schedule": ("linear", "cosine"),
    "refiner.coordinates": ("absolute", "displacement"),
    "inverse_dynamics.input": ("states", "change"),
    "planner.sampler": ("ddpm", "ddim"),
    "planner.init": ("draft", "noise"),
    "planner.warm_start": ("none", "previous"),
    "logger.kind": ("csv", "wandb", "tensorboard"),
    "logger.mode": ("offline", "online"),
}
# Smallest and largest allowed value; None means no bound. A null setting is not checked.
_RANGES: dict[str, tuple[float | None, float | None]] = {
    "seed": (0, None),
    "task.horizon": (2, None),
    "task.max_episode_steps": (1, None),
    "dataset.validation_share": (0, 0.5),
    "generator.width": (2, None),
    "generator.layers": (1, None),
    "generator.heads": (1, None),
    "refiner.channels": (8, None),
    "refiner.denoising_steps": (1, None),
    "refiner.condition_dropout": (0, 1),
    "refiner.max_step": (1, None),
    "planner.refine_steps": (0, None),
    "planner.evaluations": (1, None),
    "planner.temperature": (0, None),
    "planner.candidates": (1, None),
    "planner.replan_every": (1, None),
    "planner.refresh_every": (1, None),
    "planner.returns_floor_share": (0, 1),
    "training.steps": (1, None),
    "training.batch_size": (1, None),
    "training.decay_steps": (1, None),
    "training.final_learning_rate_share": (0, 1),
    "training.ema_decay": (0, 1),
    "training.gradient_clip": (0, None),
    "training.log_every": (1, None),
    "training.validate_every": (0, None),
    "training.evaluate_every": (0, None),
    "training.checkpoint_every": (1, None),
    "training.keep_checkpoints": (1, None),
    "training.stop_after": (1, None),
    "training.patience": (1, None),
    "training.explosion": (1, None),
    "training.threads": (1, None),
    "evaluation.episodes": (1, None),
    "evaluation.workers": (0, None),
    "evaluation.seed": (0, None),
}
_POSITIVE = ("task.returns_scale", "training.learning_rate")
_WIDTHS = ("refiner.multipliers", "inverse_dynamics.hidden_dims", "critic.hidden_dims")
# Handed to the environment; other names of the same data.
_FREE_FORM = ("task.env_kwargs.", "task.reset_options.", "dataset.sources.")


def check_config(config: DictConfig | dict[str, Any]) -> Config:
    """Checks keys, types, choices and ranges, and returns the settings as an object.

    Args:
        config: what hydra composed, or a dictionary read from a checkpoint.

    Raises:
        TDError: at the first thing wrong, in one line that says what is allowed.

    Examples:
        >>> from torchrl_td.config import check_config
        >>> check_config({"preset": "small", "planner": {"refine_step": 2}})
        Traceback (most recent call last):
        ...
        torchrl_td.errors.TDError: unknown setting 'planner.refine_step'; allowed are ...
    """
    given = OmegaConf.create(config) if isinstance(config, dict) else config
    _check_keys(given, OmegaConf.structured(Config), "")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), given)
        missing = OmegaConf.missing_keys(merged)
        if missing:
            raise TDError(f"settings without a value: {', '.join(sorted(missing))}")
        _check_values(merged)
        settings = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        first_line = str(error).splitlines()[0]
        raise TDError(f"setting {key!r}: {first_line}" if key else first_line) from None
    assert isinstance(settings, Config)
    settings.dataset.source = settings.dataset.sources.get(
        settings.dataset.source, settings.dataset.source
    )
    return settings


def override_config(config: Config, overrides: list[str]) -> Config:
    """Settings with ``key=value`` words applied, checked again.

    Raises:
        TDError: if a word is not of that form, or a key or value is wrong.

    Examples:
        >>> from torchrl_td.config import Config, DatasetConfig, TaskConfig, override_config
        >>> task = TaskConfig(name="t", env="e")
        >>> config = Config(preset="small", task=task, dataset=DatasetConfig(source="s"))
        >>> override_config(config, ["planner.refine_steps=2"]).planner.refine_steps
        2
    """
    for word in overrides:
        if "=" not in word:
            raise TDError(f"{word!r} is not of the form key=value")
    try:
        given = OmegaConf.from_dotlist(overrides)
    except Exception as error:  # yaml errors of many kinds
        raise TDError(f"cannot read {overrides}: {str(error).splitlines()[0]}") from None
    base = OmegaConf.structured(config)
    _check_keys(given, base, "")
    return check_config(OmegaConf.to_container(OmegaConf.merge(to_dict(config), given)))  # type: ignore[arg-type]


def to_dict(config: Config) -> dict[str, Any]:
    """The settings as plain dictionaries, as a checkpoint stores them."""
    return OmegaConf.to_container(OmegaConf.structured(config))  # type: ignore[return-value]


def _check_keys(given: Any, schema: Any, prefix: str) -> None:
    name = prefix[:-1]
    if isinstance(schema, DictConfig) and not isinstance(given, DictConfig):
        raise TDError(f"setting {name!r} takes settings of its own, not {given!r}")
    if not isinstance(given, DictConfig):
        return
    if not isinstance(schema, DictConfig):
        takes = "a list" if isinstance(schema, ListConfig) else "one value, not several"
        raise TDError(f"setting {name!r} takes {takes}")
    if prefix in _FREE_FORM:
        return
    known = set(schema.keys())  # "in" would miss those without a default
    for key in map(str, given):
        if key not in known:
            allowed = ", ".join(sorted(map(str, known)))
            raise TDError(f"unknown setting '{prefix}{key}'; allowed are {allowed}")
        if not OmegaConf.is_interpolation(given, key) and not OmegaConf.is_missing(given, key):
            schema_node = None if OmegaConf.is_missing(schema, key) else schema[key]
            _check_keys(given[key], schema_node, f"{prefix}{key}.")


def _check_values(config: Any) -> None:
    _check_finite(config, "")
    for key, choices in _CHOICES.items():
        value = OmegaConf.select(config, key)
        if value not in choices:
            raise TDError(f"{key}={value!r}; allowed are {', '.join(choices)}")
    for key, (low, high) in _RANGES.items():
        value = OmegaConf.select(config, key)
        if value is None:
            continue
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            raise TDError(f"{key}={value}; allowed is {bounds}")
    for key in _POSITIVE:
        value = OmegaConf.select(config, key)
        if not value > 0:
            raise TDError(f"{key}={value}; allowed is any value above 0")
    for key in _WIDTHS:
        value = OmegaConf.select(config, key)
        if any(width < 1 for width in value):
            raise TDError(f"{key}={value}; allowed are whole numbers above 0")
    _check_together(config)


def _check_together(config: Any) -> None:
    training, candidates = config.training, config.planner.candidates
    if training.patience is not None and not training.evaluate_every:
        raise TDError(
            f"training.patience={training.patience} needs training.evaluate_every above 0: it "
            f"counts evaluations"
        )
    if candidates > 1 and not config.critic.enabled:
        raise TDError(
            f"planner.candidates={candidates} needs critic.enabled=true, to choose among them"
        )


def _check_finite(config: DictConfig, prefix: str) -> None:
    for key in map(str, config):
        name, value = f"{prefix}{key}", config[key]
        if isinstance(value, DictConfig) and f"{name}." not in _FREE_FORM:
            _check_finite(value, f"{name}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise TDError(f"{name}={value}; allowed are finite numbers")
