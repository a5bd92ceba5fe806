"""Ways to run the very same plan: as it stands, by torch.compile or CUDA graphs."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from torchrl_td.inference.cuda_graphs import WARM_UP, GraphReplay
from torchrl_td.inference.fingerprint import PlannerWatch
from torchrl_td.modules.trajectory_planner import Plan, TrajectoryPlanner

_KEPT = 8  # graphs or programs of one planner: one for each method and batch size met

Value = TypeVar("Value")


class PlannerRunner:
    """The methods of a :class:`TrajectoryPlanner` that plan; ``run`` decides how.

    Attributes:
        mode: the name, among :data:`torchrl_td.inference.MODES`, of this way; never ``"auto"``.
        warm_up: calls with inputs of one shape that set up much, before it is as fast as it gets.
    """

    mode = "none"
    warm_up = 0

    def __init__(self, planner: TrajectoryPlanner, autocast: torch.dtype | None = None) -> None:
        self.planner = planner
        self.autocast = autocast
        self.device = planner.candidate_noise.device

    def call(self, name: str, *tensors: Tensor | None, **settings: int) -> Plan:
        """Calls the planner's method of that name."""
        method = getattr(self.planner, name)
        if self.autocast is None:
            return method(*tensors, **settings)
        with torch.autocast("cuda", self.autocast):
            # Half-precision copies kept from one call to the next would outlive their weights.
            torch.clear_autocast_cache()
            try:
                return method(*tensors, **settings)
            finally:
                torch.clear_autocast_cache()

    def run(self, name: str, *tensors: Tensor | None, **settings: int) -> Plan:
        """:meth:`call`, some faster way."""
        return self.call(name, *tensors, **settings)

    @property
    def plan(self) -> Callable[..., Plan]:
        """:meth:`TrajectoryPlanner.plan`, its tensors by position."""
        return functools.partial(self.run, "plan")

    @property
    def replan(self) -> Callable[..., Plan]:
        """:meth:`TrajectoryPlanner.replan`, its tensors by position."""
        return functools.partial(self.run, "replan")


class CompiledPlanner(PlannerRunner):
    """Plans with ``torch.compile``, which compiles anew for each batch size."""

    warm_up = 3  # its own CUDA graphs take some, too

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
    """Plans by replaying CUDA graphs, one for each method, batch size and planner's settings.

    A graph reads the weights where they lay when it was captured: weights changed in place
    are seen, and where one was moved the graphs are captured anew. Beyond a few, the graph not
    used for longest makes room.
    """

    mode = "cudagraph"
    warm_up = WARM_UP + 1

    def __init__(self, planner: TrajectoryPlanner, autocast: torch.dtype | None = None) -> None:
        super().__init__(planner, autocast)
        self._graphs: Kept[GraphReplay[Plan]] = Kept()
        self._watch = PlannerWatch(planner)
        self._lock = threading.Lock()  # a graph's memory serves one call at a time

    def run(self, name: str, *tensors: Tensor | None, **settings: int) -> Plan:
        """A replay of the method's graph for these shapes, captured when they were met often."""
        given = [tensor for tensor in tensors if tensor is not None]
        # The graph keeps its inputs' memory: made in inference mode, it could not be written
        # outside of it.
        with self._lock, torch.inference_mode(False), torch.no_grad():
            if self._watch.moved():
                self._graphs.clear()
            key = call_key(name, tensors, settings, self._watch)
            graph = self._graphs.get(key) or GraphReplay(
                lambda *inputs: self.call(name, *inputs, **settings), self.device
            )
            self._graphs.put(key, graph)
            draft, returns, plan, action = (output.clone() for output in graph(*given))
        return draft, returns, plan, action


class Kept(OrderedDict[Hashable, Value], Generic[Value]):
    """The few graphs or programs used last."""

    def put(self, key: Hashable, value: Value) -> None:
        """Puts what was just used last, and drops the first where there are too many."""
        self[key] = value
        self.move_to_end(key)
        if len(self) > _KEPT:
            self.popitem(last=False)


def call_key(
    name: str, tensors: Sequence[Tensor | None], settings: dict[str, int], watch: PlannerWatch
) -> Hashable:
    """What tells one graph or program from another."""
    shapes = (None if t is None else (tuple(t.shape), t.dtype) for t in tensors)
    return (name, *settings.items(), *shapes, watch.settings())
