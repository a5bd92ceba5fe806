"""Making a planner fast, from outside of it."""

from torchrl_td.inference.modes import COMPILE_MODES, MODES, make_runner

__all__ = ["COMPILE_MODES", "MODES", "make_runner"]
