"""Every setting, typed and checked: a wrong key or value stops a run before it starts."""

from torchrl_td.config.reading import check_config, override_config, to_dict
from torchrl_td.config.settings import (
    Config,
    CriticConfig,
    DatasetConfig,
    EvaluationConfig,
    GeneratorConfig,
    InverseDynamicsConfig,
    LoggerConfig,
    PlannerConfig,
    RefinerConfig,
    TaskConfig,
    TrainingConfig,
)

__all__ = [
    "Config",
    "CriticConfig",
    "DatasetConfig",
    "EvaluationConfig",
    "GeneratorConfig",
    "InverseDynamicsConfig",
    "LoggerConfig",
    "PlannerConfig",
    "RefinerConfig",
    "TaskConfig",
    "TrainingConfig",
    "check_config",
    "override_config",
    "to_dict",
]
