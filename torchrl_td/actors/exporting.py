"""Writes a planner for use without this library: models of one step, and what they need."""

from __future__ import annotations

import contextlib
import copy
import errno
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from torchrl_td.actors.receding_horizon import RecedingHorizon, State
from torchrl_td.actors.tensordict_io import check_precision
from torchrl_td.advice import install
from torchrl_td.errors import InputError, check_whole, first_line
from torchrl_td.inference.openvino_model import (
    convert,
    exported_program,
    import_openvino,
    openvino_installed,
)
from torchrl_td.modules.trajectory_planner import Plan

if TYPE_CHECKING:
    from torchrl_td.actors.td_planner_actor import TDPlannerActor

Format = Literal["auto", "openvino", "torch"]
_OUTPUTS = ("action", "draft", "refined")
_RENAMED = {
    "observation": "history_observation",
    "returns_to_go": "history_returns_to_go",
    "target_return": "reset_target_return",
}
_CHECKED_STEPS = 6  # of the actor, whose actions are written beside the models


class _OneWay(RecedingHorizon):
    """A receding horizon that makes every step the same way: which is for the caller to say."""

    way = "plan"

    def _plan_or_follow(
        self,
        state: State,
        present: Tensor,
        returns: Tensor,
        steps: Tensor,
        noise: Tensor | None,
        greedy: bool,
    ) -> Plan:
        plan, plan_returns = state["plan"], state["plan_returns_to_go"]
        if self.way == "plan":
            return self._cold(state, steps, noise, greedy)
        if self.way == "follow":
            action = self._follow(state, present, steps % self.replan_every)
            return plan, plan_returns, plan, action
        shift = self.replan_every
        return self.planner.replan(
            plan, plan_returns, present, returns, noise, shift=shift, greedy=greedy
        )

    _plan = _plan_or_follow


class _Step(nn.Module):
    """A step of the actor as a function of tensors, each input and output with a name."""

    def __init__(self, actor: TDPlannerActor, way: str) -> None:
        super().__init__()
        self.actor = copy.deepcopy(actor).eval()
        self.actor.receding_horizon.__class__ = _OneWay
        self.actor.receding_horizon.run_with(None)
        self.actor.receding_horizon.way = way
        self.state = list(actor.planner_spec.keys())

    def forward(
        self, observation: Tensor, target_return: Tensor, is_init: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        state = dict(zip(self.state, rest, strict=False))
        noise = rest[len(self.state)] if len(rest) > len(self.state) else None
        state, *outputs = self.actor.step(state, observation, target_return, is_init, noise)
        return (*outputs, *(state[name] for name in self.state))


def export_actor(
    actor: TDPlannerActor, folder: Path, batch_size: int, noise: bool, form: Format = "auto"
) -> Path:
    """What :meth:`torchrl_td.TDPlannerActor.export` does."""
    check_whole("batch_size", batch_size, 1)
    if actor.choices is not None:
        raise InputError(
            "the planner's actions are choices, and planners of numbers alone are exported; play "
            "it with TDPlannerActor.from_checkpoint"
        )
    check_precision(actor.planner.candidate_noise.dtype)
    form, folder = _chosen(form), folder.expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already; export to a new or an empty folder")
    inputs = _inputs(actor, batch_size, noise)
    actor = copy.deepcopy(actor).to("cpu").eval()
    horizon = actor.receding_horizon
    horizon.run_with(None)
    ways = ["plan"]
    ways += ["replan"] if horizon.warm_start == "previous" else []
    ways += ["follow"] if horizon.replan_every > 1 else []
    about = _about(actor, batch_size, ways, inputs)
    about |= {"outputs": [*_OUTPUTS, *(f"next_{name}" for name in _state_names(actor))]}
    about |= {"format": form, "checks": _checks(actor, inputs)}
    endings = (".xml", ".bin") if form == "openvino" else (".pt2",)
    models = [f"{way}{ending}" for way in ways for ending in endings]
    with _whole_or_nothing(folder, [*models, "planner.json"]):
        for way in ways:
            _write(_Step(actor, way), inputs, folder / way, form)
        text = json.dumps(about, indent=1) + "\n"
        (folder / "planner.json").write_text(text, encoding="utf-8")
    return folder


@contextlib.contextmanager
def _whole_or_nothing(folder: Path, names: Sequence[str]) -> Iterator[None]:
    """A folder to write files into, which are gone again should not all be written.

    Args:
        folder: is made where it is not there.
        names: of the files.

    Raises:
        InputError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, "it is not writable")
        try:
            yield
        except BaseException:
            for name in names:
                with contextlib.suppress(OSError):
                    (folder / name).unlink()
            raise
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise InputError(
            f"cannot write to {folder}: {reason}; make room, or give another folder"
        ) from error


def _chosen(form: Format) -> Format:
    if form not in get_args(Format):
        raise InputError(f"unknown format {form!r}; allowed are {', '.join(get_args(Format))}")
    if form == "openvino" and not openvino_installed():
        raise InputError(f"exporting needs OpenVINO: {install('openvino')}")
    if form == "auto":
        return "openvino" if openvino_installed() else "torch"
    return form


def _write(step: _Step, inputs: dict[str, Tensor], path: Path, form: Format) -> None:
    """One way to make a step, as a model with the ending of its format.

    Raises:
        InputError: the planner cannot be exported.
        OSError: the model cannot be written.
    """
    saved = io.BytesIO()  # PyTorch's own writing to a full disk ends the process
    try:
        if form == "torch":
            torch.export.save(exported_program(step, list(inputs.values())), saved)
        else:
            model = convert(step, list(inputs.values()))
    except Exception as error:  # whatever PyTorch or OpenVINO make of somebody's network
        raise InputError(f"the planner cannot be exported: {first_line(error)}") from error
    if form == "torch":
        path.with_suffix(".pt2").write_bytes(saved.getbuffer())
        return
    for port, name in zip(model.inputs, inputs, strict=True):
        port.get_tensor().set_names({name})
    try:
        import_openvino().save_model(model, path.with_suffix(".xml"), compress_to_fp16=False)
    except RuntimeError as error:  # all that OpenVINO says of a disk
        raise OSError(f"OpenVINO says: {first_line(error)}") from error


@torch.no_grad()
def _checks(actor: TDPlannerActor, inputs: dict[str, Tensor]) -> list[dict[str, Any]]:
    """What the actor does in states like the data's, from an empty history on, without noise.

    With it whoever loads the models can tell that they act as the actor does.
    """
    generator = torch.Generator().manual_seed(0)
    batch = inputs["target_return"].shape[0]
    state = {key: value.cpu() for key, value in actor.planner_spec.zero([batch]).items()}
    loc, scale, steps = actor.normalizer.loc, actor.normalizer.scale, []
    for number in range(_CHECKED_STEPS):
        observation = loc + scale * torch.randn(inputs["observation"].shape, generator=generator)
        target = actor.normalizer.returns_scale * torch.ones(batch, 1)
        is_init = torch.full((batch, 1), number == 0)
        state, action, *_ = actor.step(state, observation, target, is_init, inputs.get("noise"))
        given = {"observation": observation, "target_return": target, "action": action}
        steps.append({name: tensor.tolist() for name, tensor in given.items()})
    return steps


def _state_names(actor: TDPlannerActor) -> list[str]:
    """The parts of the state; those of before apart from what is observed, and asked for, now."""
    return [_RENAMED.get(name, name) for name in actor.planner_spec.keys()]


def _inputs(actor: TDPlannerActor, batch: int, noise: bool) -> dict[str, Tensor]:
    """Empty inputs by name, the state's last but for the noise."""
    inputs = {
        "observation": torch.zeros(batch, actor.normalizer.loc.shape[0]),
        "target_return": torch.zeros(batch, 1),
        "is_init": torch.zeros(batch, 1, dtype=torch.bool),
    }
    state = actor.planner_spec.zero([batch])
    names = zip(actor.planner_spec.keys(), _state_names(actor), strict=True)
    inputs |= {name: state[key].cpu() for key, name in names}
    if noise and actor.planner.refiner.noise_draws:
        inputs["noise"] = torch.zeros(actor.planner.noise_shape(batch))
    return inputs


def _about(
    actor: TDPlannerActor, batch: int, ways: list[str], inputs: dict[str, Tensor]
) -> dict[str, Any]:
    horizon = actor.receding_horizon
    return {
        "batch_size": batch,
        "models": ways,
        "inputs": {
            name: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
            for name, t in inputs.items()
        },
        "state": _state_names(actor),
        "replan_every": horizon.replan_every,
        "warm_start": horizon.warm_start,
        "refresh_every": horizon.refresh_every,
        "refresh_distance": horizon.refresh_distance,
        "normalizer": {
            "loc": actor.normalizer.loc.tolist(),
            "scale": actor.normalizer.scale.tolist(),
        },
    }
