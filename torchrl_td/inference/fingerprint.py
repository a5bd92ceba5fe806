"""Hashes of all that a compiled planner depends on: weights, settings, code."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchrl_td import modules, networks

_PROBES = 16  # entries of each tensor compared with what they were
_CODE = [Path(package.__path__[0]) for package in (modules, networks)]
_LIBRARIES = ("builtins", "torch", "tensordict", "torchrl", "typing", "abc")
_PLAIN = (bool, int, float, str, type(None), torch.dtype)


class PlannerWatch:
    """Notices when a planner's tensors or settings are others than they were.

    Args:
        planner: whose.
    """

    def __init__(self, planner: nn.Module) -> None:
        self._planner = planner
        self._modules: list[tuple[nn.Module, dict[str, nn.Module | None]]] = []
        self._tensors: list[tuple[dict, str, Tensor, int]] = []
        self._versions: list[int] = []
        self._probes: list[Tensor] = []
        self._probed: Tensor | None = None

    def moved(self) -> bool:
        """Whether a tensor or a part is another, or lies elsewhere in memory; True at first."""
        if (
            self._tensors
            and all(
                owner.get(name) is tensor and tensor.data_ptr() == address
                for owner, name, tensor, address in self._tensors
            )
            and all(owner._modules == parts for owner, parts in self._modules)
        ):
            return False
        owners = list(self._planner.modules())
        self._modules = [(m, m._modules.copy()) for m in owners]
        self._tensors = [
            (owner, name, tensor, tensor.data_ptr())
            for m in owners
            for owner in (m._parameters, m._buffers)
            for name, tensor in owner.items()
            if tensor is not None
        ]
        return True

    def changed(self) -> bool:
        """Whether :meth:`moved`, or a tensor's values were changed; True at first.

        An optimiser's step, ``load_state_dict``, a moving average or a collector's update shows
        in a version or in some entries of each tensor.
        """
        if self.moved() or not self._probes:
            flat = [t.detach().reshape(-1) for *_, t, _ in self._tensors]
            # An odd stride, for with an even one some rows' lengths would meet one column alone.
            self._probes = [t[:: max(1, t.numel() // _PROBES) | 1] for t in flat]
            self._probed = None
        versions = [0 if t.is_inference() else t._version for *_, t, _ in self._tensors]
        probed = torch.cat(self._probes)
        before = self._probed
        if versions == self._versions and before is not None and torch.equal(probed, before):
            return False
        self._versions, self._probed = versions, probed
        return True

    def settings(self) -> Hashable:
        """The names and numbers that stand on the planner and its parts."""
        parts = [self._planner]
        for part in self._planner.children():
            parts += [part, *part.children()]
        return tuple(
            tuple(value) if isinstance(value, list) else value
            for part in parts
            for value in vars(part).values()
            if isinstance(value, _PLAIN) or (isinstance(value, list) and _is_plain(value))
        )


def digest(planner: nn.Module) -> str | None:
    """A hash of all that a planner computes with: weights, settings, code.

    Returns:
        ``None`` where that is not in plain sight: a hook, a function or another object that
        one of the modules holds.
    """
    hashed = hashlib.sha256()
    files = {file for folder in _CODE for file in folder.glob("*.py")}
    for path, module in planner.named_modules():
        plain = _attributes(module)
        if plain is None:
            return None
        hashed.update(repr((path, type(module).__qualname__, plain)).encode())
        for kind in type(module).__mro__:
            if kind.__module__.split(".")[0] in _LIBRARIES:
                continue  # their versions are for the caller to tell
            source = _source(kind)
            if source is None:
                return None
            files.add(source)
    for name, tensor in _tensors(planner):
        hashed.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        values = tensor.detach().cpu().contiguous().view(-1)
        hashed.update(values.view(torch.uint8).numpy().data)
    for file in sorted(files):
        hashed.update(file.read_bytes())
    return hashed.hexdigest()


def _tensors(planner: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from planner.named_parameters(remove_duplicate=False)
    yield from planner.named_buffers(remove_duplicate=False)


def _attributes(module: nn.Module) -> list[tuple[str, Any]] | None:
    """The module's own plain attributes, or ``None`` where it holds something else."""
    own = vars(nn.Module())
    if any(vars(module).get(name) for name in own if "hook" in name):
        return None
    found = []
    for name, value in vars(module).items():
        if name in own:
            continue
        if not _is_plain(value) and not isinstance(value, type):
            if type(module).__module__.split(".")[0] in _LIBRARIES and not callable(value):
                continue  # what they keep beside parameters
            return None
        found.append((name, value))
    return sorted(found, key=lambda pair: pair[0])


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _source(kind: type) -> Path | None:
    try:
        return Path(inspect.getfile(kind))
    except (TypeError, OSError):  # typed into an interpreter
        return None
