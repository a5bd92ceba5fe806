"""Environments with the transforms that planning needs."""

from torchrl_td.envs.make import (
    make_base_env,
    make_env,
    make_gym_env,
    make_report_env,
    opened,
    planning_transforms,
)
from torchrl_td.envs.own import free_name, register_factory
from torchrl_td.envs.played_goals import tell_played_goals, with_played_goals

__all__ = [
    "free_name",
    "make_base_env",
    "make_env",
    "make_gym_env",
    "make_report_env",
    "opened",
    "planning_transforms",
    "register_factory",
    "tell_played_goals",
    "with_played_goals",
]
