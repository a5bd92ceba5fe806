"""Plans by OpenVINO: a whole plan, exported by PyTorch and compiled for the CPU."""

from __future__ import annotations

import functools
import hashlib
import io
import math
import threading
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchrl import torchrl_logger

from torchrl_td.advice import install
from torchrl_td.errors import InputError, first_line
from torchrl_td.inference.fingerprint import PlannerWatch, digest
from torchrl_td.inference.openvino_model import convert, import_openvino, openvino_installed
from torchrl_td.inference.program_cache import load_program, store_program
from torchrl_td.inference.runners import Kept, PlannerRunner, call_key
from torchrl_td.modules.trajectory_planner import Plan, TrajectoryPlanner

PATIENCE = 500
"""Plans made eagerly before compiling pays, where nobody asked for it or the weights changed.

A number and no time, so that the same run makes the same plans to the last bit.
"""


class OpenVINOPlanner(PlannerRunner):
    """Plans with OpenVINO, one program for each method, batch size and number of threads.

    The weights are part of a program. It is compiled when it is first asked for, which takes
    some ten seconds for networks of the paper's size, and kept on disk, from where it is back in a
    second. Where the weights changed, plans are made eagerly until they have stayed the same for a
    while. A plan that draws random numbers of its own, or whose networks do what cannot be
    exported, is always made eagerly.

    Args:
        planner: makes the plans, on the CPU.
        autocast: ``torch.bfloat16`` computes in it where the processor can.
        eager_first: whether also the first plans are made eagerly, so that a few plans do not
            wait for a compiler.

    Attributes:
        patience: plans made eagerly before a program is compiled for their batch size.

    Raises:
        InputError: if OpenVINO is not installed.
    """

    warm_up = 1

    def __init__(
        self,
        planner: TrajectoryPlanner,
        autocast: torch.dtype | None = None,
        eager_first: bool = False,
    ) -> None:
        super().__init__(planner)
        if not openvino_installed():
            raise InputError(f"mode='openvino' needs OpenVINO: {install('openvino')}")
        self._precision = "f32" if autocast is None else "bf16"
        self.patience = PATIENCE if eager_first else 0
        self._programs: Kept[_Program | None] = Kept()
        self._met: Counter[Hashable] = Counter()  # since the weights changed
        self._watch = PlannerWatch(planner)
        self._lock = threading.Lock()  # a program's memory serves one call at a time

    @property
    def mode(self) -> str:  # type: ignore[override]
        """``"none"`` as long as only few plans were made and nothing is compiled."""
        return "none" if self.patience and not self._programs else "openvino"

    def run(self, name: str, *tensors: Tensor | None, **settings: int) -> Plan:
        """The method's program for these shapes, compiled first if need be."""
        # What has no entries cannot be an input of a program.
        given = [t.detach() for t in tensors if t is not None and t.numel()]
        with self._lock, torch.autocast("cpu", enabled=False):
            program = self._program(name, tensors, given, settings)
            if program is not None:
                return program(given)
        with torch.autocast("cpu", enabled=False):
            return self.call(name, *tensors, **settings)

    def _program(
        self,
        name: str,
        tensors: Sequence[Tensor | None],
        given: list[Tensor],
        settings: dict[str, int],
    ) -> _Program | None:
        if self._watch.changed():
            if self._programs:
                self.patience = PATIENCE
            self._programs.clear()
            self._met.clear()
        threads = torch.get_num_threads()
        key = (threads, call_key(name, tensors, settings, self._watch))
        if key not in self._programs:
            self._met[key] += 1
            if self._met[key] <= self.patience:
                return None
            method = _Method(self.planner, name, tensors, settings)
            self._programs[key] = self._make(method, given, (*key, self._precision))
        self._programs.put(key, self._programs[key])
        return self._programs[key]

    def _make(self, method: _Method, given: list[Tensor], key: Hashable) -> _Program | None:
        try:
            return _Program(_compiled(method, given, self._precision, key))
        except Exception as error:  # whatever the networks do that one of the compilers cannot
            torchrl_logger.warning(f"plans are made without OpenVINO, slower: {first_line(error)}")
            return None


class _Method(nn.Module):
    """A method of the planner as a function of the tensors that may differ between calls."""

    def __init__(
        self,
        planner: TrajectoryPlanner,
        name: str,
        tensors: Sequence[Tensor | None],
        settings: dict[str, int],
    ) -> None:
        super().__init__()
        self.planner, self.name, self.settings = planner, name, settings
        self.shapes = [None if tensor is None else tuple(tensor.shape) for tensor in tensors]

    def forward(self, *given: Tensor) -> Plan:
        rest = iter(given)
        # What has no entries is no input, see above.
        tensors = [
            None if shape is None else next(rest) if math.prod(shape) else torch.zeros(shape)
            for shape in self.shapes
        ]
        return getattr(self.planner, self.name)(*tensors, **self.settings)


class _Program:
    """A compiled function of tensors of fixed shapes."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._outputs = len(compiled.outputs)

    def __call__(self, given: list[Tensor]) -> Plan:
        arrays = [tensor.contiguous().numpy() for tensor in given]
        found = self._request.infer(arrays, share_inputs=True, share_outputs=True)
        # Copied, for the next call writes over them.
        draft, returns, plan, action = (
            torch.from_numpy(np.array(found[i])) for i in range(self._outputs)
        )
        return draft, returns, plan, action


@functools.cache
def _core() -> Any:
    """OpenVINO's core, one for the life of the process.

    Its plugin for the processor gives the thread that loads it a stack for signal handlers, and
    unmaps that when the last core is gone, without giving the old one back: the next signal, a
    Ctrl-C, would end Python with a segmentation fault.
    """
    return import_openvino().Core()


def _compiled(method: _Method, given: list[Tensor], precision: str, key: Hashable) -> Any:
    """The compiled method from disk, or made and put there."""
    openvino, core = import_openvino(), _core()
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
    }
    planner = digest(method.planner)
    processor = core.get_property("CPU", "FULL_DEVICE_NAME")
    versions = (torch.__version__, openvino.__version__, processor)
    name = hashlib.sha256(repr((planner, key, versions)).encode()).hexdigest()
    stored = load_program(name) if planner else None
    if stored is not None:
        try:
            return core.import_model(stored, "CPU", settings)
        except RuntimeError as error:
            torchrl_logger.warning(f"a stored program is not used: {first_line(error)}")
    compiled = core.compile_model(convert(method, given), "CPU", settings)
    if planner:
        exported = compiled.export_model()
        store_program(name, exported.getvalue() if isinstance(exported, io.BytesIO) else exported)
    return compiled
