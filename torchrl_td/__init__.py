"""Trajectory Diffuser for TorchRL: offline episodes in, a planning agent out."""

from __future__ import annotations

from torchrl_td.errors import TDError
from torchrl_td.planner import TDPlannerActor

__all__ = ["TDError", "TDPlannerActor"]
__version__ = "0.1.0"
