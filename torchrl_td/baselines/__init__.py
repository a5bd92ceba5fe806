"""Baselines to compare a planner with, trained and played by the same harness."""

from __future__ import annotations

from torchrl_td.baselines.algorithm import Algorithm, Baseline
from torchrl_td.baselines.cloning import (
    BehaviourCloning,
    BestTenthCloning,
    EnsembleCloning,
    ModulatedCloning,
    ReturnConditionedCloning,
)
from torchrl_td.baselines.critics import ImplicitQLearning, TD3BehaviourCloning
from torchrl_td.baselines.decision_transformer import DecisionTransformerCloning

BASELINES: dict[str, type[Baseline]] = {
    "bc": BehaviourCloning,
    "bc_best": BestTenthCloning,
    "rcbc": ReturnConditionedCloning,
    "rcbc_modulated": ModulatedCloning,
    "rcbc_ensemble": EnsembleCloning,
    "dt": DecisionTransformerCloning,
    "iql": ImplicitQLearning,
    "td3_bc": TD3BehaviourCloning,
}
"""The baselines by the name that ``algorithm=`` takes."""

__all__ = [
    "BASELINES",
    "Algorithm",
    "Baseline",
    "BehaviourCloning",
    "BestTenthCloning",
    "DecisionTransformerCloning",
    "EnsembleCloning",
    "ImplicitQLearning",
    "ModulatedCloning",
    "ReturnConditionedCloning",
    "TD3BehaviourCloning",
]
