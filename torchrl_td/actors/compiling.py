"""Has an actor make the same plans faster, or without PyTorch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from tensordict.nn import TensorDictModuleBase

from torchrl_td.actors.exporting import Format, export_actor
from torchrl_td.actors.receding_horizon import RecedingHorizon
from torchrl_td.errors import InputError
from torchrl_td.inference import COMPILE_MODES, MODES, make_runner


class CompiledActor(TensorDictModuleBase):
    """An actor whose plans can be compiled and exported."""

    receding_horizon: RecedingHorizon

    def compile(
        self, mode: str = "auto", *, autocast: torch.dtype | None = None, **options: Any
    ) -> Self:
        """Makes the same plans faster from now on.

        Args:
            mode: ``"openvino"`` compiles whole plans for the CPU; ``"cudagraph"`` captures them as
                CUDA graphs; ``"auto"`` fits the device, takes OpenVINO where it is installed, and
                compiles only what is planned often; ``"default"``, ``"reduce-overhead"`` and
                ``"max-autotune"`` are ``torch.compile``'s; ``"none"`` goes back.
            autocast: ``torch.bfloat16`` or ``torch.float16``: half precision on a GPU;
                ``torch.bfloat16`` with OpenVINO, too.
            **options: ``torch.compile``'s, such as ``backend`` and ``fullgraph``: with any, the
                whole forward is compiled as :meth:`torch.nn.Module.compile` does it.

        Returns:
            The actor itself. Copies compile for themselves. Changed weights and settings are
            noticed, but for a few entries written through ``.data``; after such, or after
            registering a hook, call it again.

        Raises:
            InputError: if the mode is unknown, what it needs is missing, or it does not fit the
                device or the options.
        """
        if options:
            if mode not in ("auto", *COMPILE_MODES) or autocast is not None:
                raise InputError(
                    f"{', '.join(options)} go to torch.compile, which knows neither autocast nor "
                    f"the modes {', '.join(m for m in MODES if m not in COMPILE_MODES)}"
                )
            super().compile(**({} if mode == "auto" else {"mode": mode}), **options)
            return self
        self._compiled_call_impl = None
        self.receding_horizon.run_with(
            None
            if mode == "none" and autocast is None
            else partial(make_runner, mode=mode, autocast=autocast)
        )
        return self

    @property
    def compiled_mode(self) -> str:
        """The mode in which plans are made, never ``"auto"``."""
        return getattr(self.receding_horizon.runner, "mode", "none")

    def export(
        self,
        path: str | Path,
        *,
        batch_size: int = 1,
        noise: bool = False,
        format: Format = "auto",
    ) -> Path:
        """Writes the planner for use without TorchRL and this library.

        ``examples/td_deploy.py`` loads, checks and runs it.

        Args:
            path: a new or empty folder.
            batch_size: B, how many environments one call plans for.
            noise: whether the models take sampling noise; without, they plan deterministically.
            format: ``"openvino"`` for models that need OpenVINO and numpy alone, ``"torch"`` for
                ``torch.export`` archives, which need PyTorch; ``"auto"`` takes OpenVINO where it
                is installed.

        Returns:
            The folder: ``planner.json``, which says what the models read and write, when to
            call which and what the actor did in some states, and a model for each way to make a
            step.

        Raises:
            InputError: if OpenVINO is missing, the folder holds something, or a network cannot be
                exported.
        """
        return export_actor(self, Path(path), batch_size, noise, format)
