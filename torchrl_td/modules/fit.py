"""Whether a planner's parts go together: their widths, their horizon, their precision."""

from __future__ import annotations

import torch
from torch import nn

from torchrl_td.errors import InputError
from torchrl_td.modules.common import first_width, last_width
from torchrl_td.modules.generator import InverseDynamics, TrajectoryGenerator
from torchrl_td.modules.plan_parts import PlanGenerator, PlanInverseDynamics, members_of
from torchrl_td.modules.refiner import DiffusionRefiner


def check_refiner(refiner: DiffusionRefiner, horizon: int, width: int) -> None:
    """Raises where a refiner that is used is not for plans [H, O] of this horizon and width."""
    if not refiner.steps:
        return
    multiple = getattr(refiner.network, "horizon_multiple", 1)
    if horizon % multiple:
        raise InputError(f"horizon must be divisible by {multiple} for this U-Net, got {horizon}")
    scale = refiner.coordinates.scale
    if scale is not None and scale.shape != (horizon, width):
        raise InputError(
            f"the coordinates' scale has shape {list(scale.shape)}, but horizon and U-Net need "
            f"{[horizon, width]}"
        )


def check_generator(
    generator: TrajectoryGenerator | PlanGenerator, horizon: int, width: int
) -> None:
    """Raises where a generator drafts plans of another width or horizon."""
    if isinstance(generator, PlanGenerator):
        if generator.scale.shape != (horizon, width):
            raise InputError(
                f"the generator's scale has shape {list(generator.scale.shape)}, but horizon and "
                f"U-Net need {[horizon, width]}"
            )
        _check_members("generator", generator.network, width, width + 1, (horizon - 1) * width)
        return
    network = generator.network
    its_width = getattr(network, "observation_dim", width)
    if its_width != width:
        raise InputError(f"the generator's states have width {its_width}, the U-Net's {width}")
    needed = 2 * horizon - 3  # the history, and all of the draft but the present and the last
    if getattr(network, "max_length", needed) < needed:
        raise InputError(
            f"horizon {horizon} needs a generator of max_length {2 * horizon - 2}, but this one's "
            f"is {network.max_length}"
        )


def check_inverse_dynamics(part: InverseDynamics | PlanInverseDynamics, width: int) -> None:
    """Raises where the inverse dynamics reads states of another width."""
    needed = 2 * width
    if isinstance(part, PlanInverseDynamics):
        needed = (1 + part.plan_states) * width + 1
    _check_members("inverse dynamics", part.network, width, needed, part.action_dim)


def _check_members(
    name: str, network: nn.Module, width: int, needed: int, given: int | None
) -> None:
    """Raises where a network, or one of an ensemble, has other inputs or outputs; it need not say.

    Args:
        name: of the part, for the message.
        network: the part's.
        width: of a state.
        needed: numbers that it reads.
        given: numbers that it gives; ``None`` for any.
    """
    for member in members_of(network):
        reads = first_width(member)
        if reads not in (None, needed):
            raise InputError(
                f"the {name} reads {reads} numbers, but of states of the U-Net's width {width} it "
                f"is given {needed}"
            )
        gives = last_width(member)
        if None not in (gives, given) and gives != given:
            raise InputError(f"a network of the {name} gives {gives} numbers, not {given}")


def check_precision(planner: nn.Module) -> None:
    """Raises where a part is not in single precision."""
    for name, parameter in planner.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise InputError(
                f"{name} is {parameter.dtype}, but plans are made in single precision; call "
                f"float() on the parts"
            )
