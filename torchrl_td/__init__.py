"""Trajectory Diffuser for TorchRL: offline episodes in, a planning agent out."""

from __future__ import annotations

from torchrl_td.actors.td_planner_actor import TDPlannerActor
from torchrl_td.errors import InputError

__all__ = ["InputError", "TDPlannerActor"]
__version__ = "0.1.0"
