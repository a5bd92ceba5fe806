"""The names of the ways to run a planner, and what each makes."""

from __future__ import annotations

import torch

from torchrl_td.errors import InputError
from torchrl_td.inference.openvino_model import openvino_installed
from torchrl_td.inference.openvino_planner import OpenVINOPlanner
from torchrl_td.inference.runners import CompiledPlanner, CudaGraphPlanner, PlannerRunner
from torchrl_td.modules.trajectory_planner import TrajectoryPlanner

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
MODES = ("none", "auto", "openvino", "cudagraph", *COMPILE_MODES)


def make_runner(
    planner: TrajectoryPlanner, mode: str, autocast: torch.dtype | None = None
) -> PlannerRunner:
    """What runs the planner as the settings of :meth:`torchrl_td.TDPlannerActor.compile` say.

    Args:
        planner: makes the plans, on the device where it now is.
        mode: one of :data:`MODES`.
        autocast: ``torch.bfloat16`` or ``torch.float16``; ``None`` for float32.

    Raises:
        InputError: if the mode or the autocast is unknown or the device cannot run it.
    """
    if mode not in MODES:
        raise InputError(f"unknown mode {mode!r}; allowed are {', '.join(MODES)}")
    device = planner.candidate_noise.device.type
    eager_first = mode == "auto"
    if mode == "auto":
        fast = "openvino" if device == "cpu" and openvino_installed() else "none"
        mode = "cudagraph" if device == "cuda" else fast
    _check_autocast(mode, autocast, device)
    if mode == "none":
        return PlannerRunner(planner, autocast)
    if mode == "openvino":
        if device != "cpu":
            raise InputError(f"mode='openvino' needs a CPU, the planner is on {device}")
        return OpenVINOPlanner(planner, autocast, eager_first=eager_first)
    if mode == "cudagraph":
        if device != "cuda":
            raise InputError(f"mode='cudagraph' needs a CUDA device, the planner is on {device}")
        return CudaGraphPlanner(planner, autocast)
    return CompiledPlanner(planner, autocast, mode)


def _check_autocast(mode: str, autocast: torch.dtype | None, device: str) -> None:
    if autocast not in (None, torch.bfloat16, torch.float16):
        raise InputError(f"autocast must be torch.bfloat16 or torch.float16, got {autocast}")
    if autocast is None or device == "cuda":
        return
    if mode != "openvino" or autocast != torch.bfloat16:
        raise InputError(
            f"autocast={autocast} needs a CUDA device, the planner is on {device}; on a CPU "
            f"mode='openvino' takes torch.bfloat16"
        )
