"""A function of tensors as an OpenVINO model, by way of PyTorch's export."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def openvino_installed() -> bool:
    """Whether OpenVINO can be imported."""
    return importlib.util.find_spec("openvino") is not None


def import_openvino() -> Any:
    """OpenVINO, without its telemetry.

    That sends a message at the first import, from a process of its own, which where processes are
    spawned runs the caller's script again.
    """
    if "openvino" not in sys.modules:
        name = "openvino_telemetry"
        there = name in sys.modules
        kept = sys.modules.get(name)
        sys.modules[name] = None  # type: ignore[assignment]  # as if it were not installed
        try:
            importlib.import_module("openvino")
        finally:
            if there and kept is not None:
                sys.modules[name] = kept
            else:
                del sys.modules[name]
    return sys.modules["openvino"]


def exported_program(function: nn.Module, given: Sequence[Tensor]) -> torch.export.ExportedProgram:
    """A function of tensors as PyTorch's export, of static shapes.

    Args:
        function: as for :func:`convert`.
        given: likewise.

    Raises:
        NotImplementedError: if it draws random numbers, which a model would draw otherwise.
        Exception: whatever PyTorch cannot export.
    """
    with torch.inference_mode(False), torch.no_grad(), _quiet():
        example = tuple(torch.zeros_like(t) for t in given)
        exported = torch.export.export(_OwnOutputs(function), example)
    for node in exported.graph.nodes:
        if _is_random(node):
            raise NotImplementedError(f"{node.target} draws random numbers")
    return exported


def convert(function: nn.Module, given: Sequence[Tensor]) -> Any:
    """A function of tensors as an OpenVINO model of the same static shapes.

    Args:
        function: returns a tuple of tensors; its settings and weights become constants.
        given: tensors of the shapes and types it is to take.

    Raises:
        NotImplementedError: if it draws random numbers, which a model would draw otherwise.
        Exception: whatever PyTorch or OpenVINO cannot export or convert.
    """
    openvino = import_openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    exported = exported_program(function, given)
    with torch.inference_mode(False), torch.no_grad(), _quiet():
        front_end = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchFXPythonDecoder.from_exported_program(exported)  # must outlive the next line
        model = front_end.convert(front_end.load(decoder))
    _write_out_mish(model)
    shapes = [openvino.PartialShape(list(t.shape)) for t in given]
    model.reshape(dict(zip(model.inputs, shapes, strict=True)))
    return model


class _OwnOutputs(nn.Module):
    """A function whose outputs are tensors of their own: a model's may not be one and the same."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        # Not clone(), which is nothing to a converter.
        return tuple(output + 0 for output in self.function(*given))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings, with tracebacks, of operations that OpenVINO looks for in vain."""
    root, silent = logging.getLogger(), logging.NullHandler()
    level = root.level
    root.addHandler(silent)  # else `logging.warning` gives the root logger a handler for good
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
        root.removeHandler(silent)


def _is_random(node: torch.fx.Node) -> bool:
    """Whether an exported operation draws random numbers, as a dropout does in training alone."""
    if node.target is torch.ops.aten.dropout.default:
        return node.args[2] is not False
    if node.target is torch.ops.aten.scaled_dot_product_attention.default:
        dropout = node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0)
        return dropout not in (0, 0.0)
    return bool(torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()))


def _write_out_mish(model: Any) -> None:
    """Mish as x·tanh(log(1 + eˣ)) without the last two, which OpenVINO makes fast code of.

    It has no fast code for the operation itself and, where shapes are static, fails at it.
    """
    from openvino import opset13 as op

    two = op.constant(np.float32(2))
    for node in model.get_ops():
        if node.get_type_name() == "Mish":
            x = node.input_value(0)
            e = op.exp(op.minimum(x, op.constant(np.float32(20))))  # beyond that it is x
            up = op.multiply(e, op.add(e, two))
            node.output(0).replace(op.multiply(x, op.divide(up, op.add(up, two))).output(0))
