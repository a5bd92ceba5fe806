"""Faster ways to run the very same plan: packed weights, torch.compile, CUDA graphs."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from tensordict.nn import CudaGraphModule
from torch import Tensor

from torchrl_td.errors import TDError
from torchrl_td.modules.trajectory_planner import Plan, TrajectoryPlanner
from torchrl_td.networks.packing import PackedWeights

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
MODES = ("none", "auto", "packed", "cudagraph", *COMPILE_MODES)
_MAX_GRAPHS = 8  # one for each batch size met; each holds its buffers on the GPU


def accelerate(
    planner: TrajectoryPlanner, mode: str, autocast: torch.dtype | None = None
) -> PlannerRunner:
    """What runs the planner as the settings of :meth:`torchrl_td.TDPlannerActor.compile` say.

    Args:
        planner: makes the plans, on the device where it now is.
        mode: one of :data:`MODES`.
        autocast: ``torch.bfloat16`` or ``torch.float16``, on a GPU; ``None`` for float32.

    Raises:
        TDError: if the mode or the autocast is unknown or the device cannot run it.
    """
    if mode not in MODES:
        raise TDError(f"unknown mode {mode!r}; allowed are {', '.join(MODES)}")
    device = planner.candidate_noise.device.type
    if autocast not in (None, torch.bfloat16, torch.float16):
        raise TDError(f"autocast must be torch.bfloat16 or torch.float16, got {autocast}")
    if autocast is not None and device != "cuda":
        raise TDError(f"autocast needs a CUDA device, the planner is on {device}")
    if mode == "auto":
        mode = "cudagraph" if device == "cuda" else "packed"
        if mode == "packed" and not PackedWeights.available():
            mode = "none"
    if mode == "none":
        return PlannerRunner(planner, autocast)
    if mode == "packed":
        if device != "cpu" or not PackedWeights.available():
            raise TDError(f"mode='packed' needs a CPU with oneDNN, the planner is on {device}")
        return PackedPlanner(planner, autocast)
    if mode == "cudagraph":
        if device != "cuda":
            raise TDError(f"mode='cudagraph' needs a CUDA device, the planner is on {device}")
        return CudaGraphPlanner(planner, autocast)
    return CompiledPlanner(planner, autocast, mode)


class PlannerRunner:
    """The methods of a :class:`TrajectoryPlanner` that plan; ``run`` decides how.

    Attributes:
        mode: the name, among :data:`MODES`, of this way; never ``"auto"``.
    """

    mode = "none"

    def __init__(self, planner: TrajectoryPlanner, autocast: torch.dtype | None = None) -> None:
        self.planner = planner
        self.autocast = autocast
        self.device = planner.candidate_noise.device

    def call(self, name: str, *tensors: Tensor | None, **settings: int) -> Plan:
        """Calls the planner's method of that name."""
        method = getattr(self.planner, name)
        if self.autocast is None:
            return method(*tensors, **settings)
        # Half-precision copies kept from one call to the next would outlive their weights.
        with torch.autocast("cuda", self.autocast, cache_enabled=False):
            return method(*tensors, **settings)

    def run(self, name: str, *tensors: Tensor | None, **settings: int) -> Plan:
        """:meth:`call`, some faster way."""
        return self.call(name, *tensors, **settings)

    @property
    def plan(self) -> Callable[..., Plan]:
        """:meth:`TrajectoryPlanner.plan`, its arguments by position."""
        return functools.partial(self.run, "plan")

    @property
    def replan(self) -> Callable[..., Plan]:
        """:meth:`TrajectoryPlanner.replan`, its arguments but ``shift`` by position."""
        return functools.partial(self.run, "replan")


class PackedPlanner(PlannerRunner):
    """Plans on the CPU with packed weights."""

    mode = "packed"

    def __init__(self, planner: TrajectoryPlanner, autocast: torch.dtype | None = None) -> None:
        super().__init__(planner, autocast)
        self.weights = PackedWeights([planner])

    def run(self, name: str, *tensors: Tensor | None, **settings: int) -> Plan:
        """In inference mode, with the weights packed."""
        with self.weights, torch.inference_mode():
            outputs = self.call(name, *tensors, **settings)
        # Copied, for tensors of inference mode could not be changed in place outside of it.
        draft, returns, plan, action = (output.clone() for output in outputs)
        return draft, returns, plan, action


class CompiledPlanner(PlannerRunner):
    """Plans with ``torch.compile``, which compiles anew for each batch size."""

    def __init__(self, planner: TrajectoryPlanner, autocast: torch.dtype | None, mode: str) -> None:
        super().__init__(planner, autocast)
        self.mode = mode
        self._compiled = torch.compile(self.call, mode=mode, dynamic=False)
        self._clone = mode != "default"  # else the next plan would overwrite the last one's

    def run(self, name: str, *tensors: Tensor | None, **settings: int) -> Plan:
        """The compiled code; its outputs are copied where it reuses their memory."""
        outputs = self._compiled(name, *tensors, **settings)
        if not self._clone:
            return outputs
        draft, returns, plan, action = (output.clone() for output in outputs)
        return draft, returns, plan, action


class CudaGraphPlanner(PlannerRunner):
    """Plans by replaying CUDA graphs, one for each method and batch size.

    A graph reads the weights where they lay when it was captured: weights changed in place
    are seen, and where one was moved the graphs are captured anew. Beyond a few batch sizes
    further ones are planned for without a graph.
    """

    mode = "cudagraph"

    def __init__(self, planner: TrajectoryPlanner, autocast: torch.dtype | None = None) -> None:
        super().__init__(planner, autocast)
        self._graphs: dict[tuple, Callable[..., Plan]] = {}
        self._addresses: list[int] = []

    def run(self, name: str, *tensors: Tensor | None, **settings: int) -> Plan:
        """A replay of the method's graph for these shapes, captured when first met."""
        addresses = [p.data_ptr() for p in self.planner.parameters()]
        addresses += [b.data_ptr() for b in self.planner.buffers()]
        if addresses != self._addresses:
            self._graphs.clear()
            self._addresses = addresses
        given = [tensor for tensor in tensors if tensor is not None]
        key = (name, *settings.items(), *((t.shape, t.dtype) for t in given))
        graph = self._graphs.get(key)
        if graph is None:
            if len(self._graphs) == _MAX_GRAPHS:
                return self.call(name, *tensors, **settings)
            graph = self._graphs[key] = CudaGraphModule(
                lambda *inputs: self.call(name, *inputs, **settings), device=self.device
            )
        # The graph keeps its inputs' memory: made in inference mode, it could not be written
        # outside of it.
        with torch.inference_mode(False), torch.no_grad():
            return graph(*given)
