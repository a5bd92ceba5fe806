"""Faster ways to run the very same plan: packed weights, a tape, torch.compile, CUDA graphs."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchrl import torchrl_logger

from torchrl_td.errors import InputError
from torchrl_td.inference.cuda_graphs import WARM_UP, GraphReplay
from torchrl_td.inference.operation_tape import OperationTape
from torchrl_td.inference.packed_weights import PackedWeights
from torchrl_td.modules.trajectory_planner import Plan, TrajectoryPlanner

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
MODES = ("none", "auto", "packed", "tape", "cudagraph", *COMPILE_MODES)
_MAX_GRAPHS = 8  # one for each batch size met; each holds its buffers
LARGEST_TAPE = 32  # plans in a batch; with more of them the arithmetic is all that takes time
_PATIENCE = 20  # plans before recording again after the weights changed: they may soon once more


def accelerate(
    planner: TrajectoryPlanner, mode: str, autocast: torch.dtype | None = None
) -> PlannerRunner:
    """What runs the planner as the settings of :meth:`torchrl_td.TDPlannerActor.compile` say.

    Args:
        planner: makes the plans, on the device where it now is.
        mode: one of :data:`MODES`.
        autocast: ``torch.bfloat16`` or ``torch.float16``, on a GPU; ``None`` for float32.

    Raises:
        InputError: if the mode or the autocast is unknown or the device cannot run it.
    """
    if mode not in MODES:
        raise InputError(f"unknown mode {mode!r}; allowed are {', '.join(MODES)}")
    device = planner.candidate_noise.device.type
    if autocast not in (None, torch.bfloat16, torch.float16):
        raise InputError(f"autocast must be torch.bfloat16 or torch.float16, got {autocast}")
    if autocast is not None and device != "cuda":
        raise InputError(f"autocast needs a CUDA device, the planner is on {device}")
    if mode == "auto":
        mode = "cudagraph" if device == "cuda" else "tape"
        if mode == "tape" and not PackedWeights.available():
            mode = "none"
    if mode == "none":
        return PlannerRunner(planner, autocast)
    if mode in ("packed", "tape"):
        if device != "cpu" or not PackedWeights.available():
            raise InputError(f"mode={mode!r} needs a CPU with oneDNN, the planner is on {device}")
        return (PackedPlanner if mode == "packed" else TapePlanner)(planner, autocast)
    if mode == "cudagraph":
        if device != "cuda":
            raise InputError(f"mode='cudagraph' needs a CUDA device, the planner is on {device}")
        return CudaGraphPlanner(planner, autocast)
    return CompiledPlanner(planner, autocast, mode)


class PlannerRunner:
    """The methods of a :class:`TrajectoryPlanner` that plan; ``run`` decides how.

    Attributes:
        mode: the name, among :data:`MODES`, of this way; never ``"auto"``.
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
        """In inference mode, with the weights packed, which are in single precision."""
        with self.weights, torch.autocast("cpu", enabled=False):
            return self._packed(name, *tensors, **settings)

    def _packed(self, name: str, *tensors: Tensor | None, **settings: int) -> Plan:
        with torch.inference_mode():
            outputs = self.call(name, *tensors, **settings)
        # Copied, for tensors of inference mode could not be changed in place outside of it.
        draft, returns, plan, action = (output.clone() for output in outputs)
        return draft, returns, plan, action


class TapePlanner(PackedPlanner):
    """Plans on the CPU by replaying tapes, one for each method and batch size.

    A tape is recorded when its method, shapes and settings are met the second time, and anew
    where the weights changed; beyond a few, the one not used for longest makes room. Batches
    that a tape would not help are planned for with packed weights alone; so is everything if a
    network does what no tape can hold.
    """

    mode = "tape"
    warm_up = 2

    def __init__(self, planner: TrajectoryPlanner, autocast: torch.dtype | None = None) -> None:
        super().__init__(planner, autocast)
        self._tapes: dict[Hashable, OperationTape] = {}
        self._met: Counter[Hashable] = Counter()  # since the weights changed
        self._watch = TensorWatch(planner)
        self._packings = 0  # how often the weights were packed when the tapes were recorded
        self._usable = True
        self._lock = threading.Lock()  # a tape's memory serves one call at a time

    def run(self, name: str, *tensors: Tensor | None, **settings: int) -> Plan:
        """A replay of the method's tape for these shapes."""
        given = [tensor for tensor in tensors if tensor is not None]
        with self._lock, self.weights, torch.autocast("cpu", enabled=False):
            tape = self._tape(name, given, settings)
            if tape is None:
                return self._packed(name, *tensors, **settings)
            draft, returns, plan, action = tape(*given)
            return draft, returns, plan, action

    def _tape(
        self, name: str, given: Sequence[Tensor], settings: dict[str, int]
    ) -> OperationTape | None:
        if self._watch.changed() or self.weights.packings != self._packings:
            self._packings = self.weights.packings
            self._tapes.clear()
            self._met.clear()
        if not self._usable or given[0].shape[0] > LARGEST_TAPE:
            return None
        key = _key(self.planner, name, given, settings)
        tape = self._tapes.get(key)
        if tape is None:
            self._met[key] += 1
            patience = 1 if self._packings == 1 else _PATIENCE
            if self._met[key] > patience:
                tape = self._record(name, given, settings)
                self._met[key] = 0
        if tape is not None:
            _keep(self._tapes, key, tape)
        return tape

    def _record(
        self, name: str, given: Sequence[Tensor], settings: dict[str, int]
    ) -> OperationTape | None:
        try:
            return OperationTape(lambda *inputs: self.call(name, *inputs, **settings), *given)
        except RuntimeError as error:  # TapeError is one; the planner's own comes again without
            torchrl_logger.warning(f"plans are made without a tape, somewhat slower: {error}")
            self._usable = False
            return None


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
    """Plans by replaying CUDA graphs, one for each method, batch size and refiner's settings.

    A graph reads the weights where they lay when it was captured: weights changed in place
    are seen, and where one was moved the graphs are captured anew. Beyond a few, the graph not
    used for longest makes room.
    """

    mode = "cudagraph"
    warm_up = WARM_UP + 1

    def __init__(self, planner: TrajectoryPlanner, autocast: torch.dtype | None = None) -> None:
        super().__init__(planner, autocast)
        self._graphs: dict[Hashable, GraphReplay[Plan]] = {}
        self._watch = TensorWatch(planner)
        self._lock = threading.Lock()  # a graph's memory serves one call at a time

    def run(self, name: str, *tensors: Tensor | None, **settings: int) -> Plan:
        """A replay of the method's graph for these shapes, captured when they were met often."""
        given = [tensor for tensor in tensors if tensor is not None]
        key = _key(self.planner, name, given, settings)
        # The graph keeps its inputs' memory: made in inference mode, it could not be written
        # outside of it.
        with self._lock, torch.inference_mode(False), torch.no_grad():
            if self._watch.changed():
                self._graphs.clear()
            graph = self._graphs.get(key) or GraphReplay(
                lambda *inputs: self.call(name, *inputs, **settings), self.device
            )
            _keep(self._graphs, key, graph)
            draft, returns, plan, action = (output.clone() for output in graph(*given))
        return draft, returns, plan, action


class TensorWatch:
    """Notices when parts of a module were replaced, or its tensors lie elsewhere in memory.

    Args:
        module: whose parameters, buffers and modules.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._modules: list[tuple[dict, str, nn.Module]] = []
        self._seen: list[tuple[dict, str, Tensor, int]] = []

    def changed(self) -> bool:
        """Whether any did since the last call; True at the first one."""
        if (
            self._seen
            and all(
                owner.get(name) is tensor and tensor.data_ptr() == address
                for owner, name, tensor, address in self._seen
            )
            and all(owner.get(name) is part for owner, name, part in self._modules)
        ):
            return False
        owners = list(self._module.modules())
        self._modules = [
            (m._modules, name, part) for m in owners for name, part in m.named_children()
        ]
        self._seen = [
            (owner, name, tensor, tensor.data_ptr())
            for m in owners
            for owner in (m._parameters, m._buffers)
            for name, tensor in owner.items()
            if tensor is not None
        ]
        return True


def _key(
    planner: TrajectoryPlanner, name: str, given: Sequence[Tensor], settings: dict[str, int]
) -> Hashable:
    """What tells one graph or tape from another."""
    shapes = ((t.shape, t.dtype) for t in given)
    return (name, *settings.items(), *shapes, planner.refiner.settings)


def _keep(kept: dict[Hashable, Any], key: Hashable, value: Any) -> None:
    """Puts what was just used last, and drops the first where there are too many."""
    kept.pop(key, None)
    kept[key] = value
    if len(kept) > _MAX_GRAPHS:
        del kept[next(iter(kept))]
