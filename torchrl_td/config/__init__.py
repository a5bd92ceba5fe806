"""Every setting, typed and checked: a wrong key or value stops a run before it starts."""

from torchrl_td.config.folder import CONFIGS
from torchrl_td.config.limits import FROM_NOISE, PLANNERS
from torchrl_td.config.reading import check_config, override_config, to_dict
from torchrl_td.config.settings import (
    AlgorithmConfig,
    Config,
    CriticConfig,
    DatasetConfig,
    EvaluationConfig,
    GeneratorConfig,
    InverseDynamicsConfig,
    LoggerConfig,
    PlannerConfig,
    RefinerConfig,
    ReturnsLimitConfig,
    TaskConfig,
    TrainingConfig,
    ValueConfig,
    plan_horizon,
    plan_stride,
)
from torchrl_td.config.stored import check_stored_env, read_yaml, stored_config
from torchrl_td.config.unread import check_read, limits_returns, reads, unread_settings
from torchrl_td.config.words import setting_of, word_by_word

__all__ = [
    "CONFIGS",
    "FROM_NOISE",
    "PLANNERS",
    "AlgorithmConfig",
    "Config",
    "CriticConfig",
    "DatasetConfig",
    "EvaluationConfig",
    "GeneratorConfig",
    "InverseDynamicsConfig",
    "LoggerConfig",
    "PlannerConfig",
    "RefinerConfig",
    "ReturnsLimitConfig",
    "TaskConfig",
    "TrainingConfig",
    "ValueConfig",
    "check_config",
    "check_read",
    "check_stored_env",
    "limits_returns",
    "override_config",
    "plan_horizon",
    "plan_stride",
    "read_yaml",
    "reads",
    "setting_of",
    "stored_config",
    "to_dict",
    "unread_settings",
    "word_by_word",
]
