"""Arguments out of their range are refused by name, and not answered with a number."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tensordict import TensorDict
from torchrl.modules import MLP

from torchrl_td.data import Normalizer, displacement_scale
from torchrl_td.errors import InputError
from torchrl_td.modules import InverseDynamics, NoiseSchedule, TrajectoryGenerator
from torchrl_td.networks import RecurrentTrajectoryModel, TrajectoryTransformer

X, ONE = torch.zeros(2, 4, 3), torch.ones(3)
SCHEDULE = NoiseSchedule(10)


def normalizer(**units) -> Normalizer:
    return Normalizer(**{"loc": torch.zeros(3), "scale": ONE, **units})


def action_units(loc: object = ONE, scale: object = ONE) -> Normalizer:
    return normalizer(action_loc=loc, action_scale=scale)


def measured(**settings) -> torch.Tensor:
    data = TensorDict(
        observation=torch.randn(9, 3), episode=torch.zeros(9, dtype=torch.int64), batch_size=[9]
    )
    return displacement_scale(data, **{"horizon": 3, **settings})


def generator(width: int) -> TrajectoryGenerator:
    network = TrajectoryTransformer(3, 14, width=16, layers=1, heads=2)
    scales = {"change_scale": torch.ones(width), "returns_change_scale": 0.1}
    return TrajectoryGenerator(network, predict="change", **scales)


def inverse_dynamics(width: int) -> InverseDynamics:
    return InverseDynamics(MLP(6, 2, num_cells=(8,)), change_scale=torch.ones(width))


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "K is True": (lambda: NoiseSchedule(True), "denoising_steps must be a whole number"),
    "signal below": (lambda: SCHEDULE.signal_left(-1), r"step must lie in 0\.\.10 .*got -1"),
    "signal above": (lambda: SCHEDULE.signal_left(11), r"step must lie in 0\.\.10 .*got 11"),
    "noise": (lambda: SCHEDULE.add_noise(X, X, -1), r"step must lie in 0\.\.10"),
    "clean": (lambda: SCHEDULE.predict_clean(X, X, 11), r"step must lie in 0\.\.10"),
    "clipped": (lambda: SCHEDULE.clipped_noise(X, X, 0, 1.0), r"step must lie in 1\.\.10"),
    "ddpm from 0": (lambda: SCHEDULE.ddpm_step(X, X, 0), r"step must lie in 1\.\.10"),
    "ddpm above": (lambda: SCHEDULE.ddpm_step(X, X, 11), r"step must lie in 1\.\.10"),
    "ddpm half": (lambda: SCHEDULE.ddpm_step(X, X, 1.5), "step must be a whole number"),
    "ddim from 0": (lambda: SCHEDULE.ddim_step(X, X, 0, 0), r"^step must lie in 1\.\.10"),
    "ddim to itself": (lambda: SCHEDULE.ddim_step(X, X, 5, 5), r"to_step must lie in 0\.\.4"),
    "ddim below": (lambda: SCHEDULE.ddim_step(X, X, 5, -1), r"to_step must lie in 0\.\.4"),
    "negative scale": (lambda: normalizer(scale=-ONE), "^scale must not be negative"),
    "list": (lambda: normalizer(loc=[0.0] * 3), "loc must be a vector of floats.*got list"),
    "whole numbers": (lambda: normalizer(scale=ONE.long()), "scale must be .*torch.int64"),
    "matrix": (lambda: normalizer(loc=X[0]), r"loc must be .*\[4, 3\]"),
    "lengths": (lambda: normalizer(loc=ONE[:2]), "scale has 3 numbers, but loc has 2"),
    "action zero": (lambda: action_units(scale=0 * ONE), "action_scale must be positive, got 0"),
    "action NaN": (lambda: action_units(scale=ONE / 0 * 0), "action_scale .*not finite"),
    "action infinite": (lambda: action_units(loc=ONE / 0), "action_loc .*not finite"),
    "action lengths": (lambda: action_units(scale=ONE[:1]), "action_scale has 1 numbers"),
    "action alone": (lambda: action_units(scale=None), "action_scale must be .*NoneType"),
    "stride": (lambda: measured(stride=0), "stride must be at least 1, got 0"),
    "horizon": (lambda: measured(horizon=-2), "horizon must be at least 1, got -2"),
    "samples": (lambda: measured(samples=0), "samples must be at least 1, got 0"),
    "generator": (lambda: generator(1), r"'change_scale' has shape \[1\], where \[3\] is wanted"),
    "inverse": (lambda: inverse_dynamics(1), r"'change_scale' has shape \[1\], where \[3\]"),
    "layers": (lambda: RecurrentTrajectoryModel(3, layers=0), "layers must be at least 1"),
    "width": (lambda: RecurrentTrajectoryModel(3, width=0), "width must be at least 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arguments_out_of_range_are_refused(case: str) -> None:
    call, named = REFUSED[case]
    with pytest.raises(InputError, match=named) as error:
        call()
    assert "\n" not in str(error.value)


def test_the_ends_of_the_ranges_are_taken() -> None:
    assert SCHEDULE.signal_left(0) == 1.0 and SCHEDULE.signal_left(10) > 0
    assert torch.equal(SCHEDULE.predict_clean(X, X, 0), X)
    assert torch.equal(SCHEDULE.ddim_step(X, X, 10, 9), X)
    assert torch.equal(SCHEDULE.ddpm_step(X, X, 1), X)
    ten, nine = torch.arange(10, 8, -1)
    assert torch.equal(SCHEDULE.ddim_step(X, X, ten, nine), X)
    assert torch.equal(normalizer(scale=0 * ONE).scale, ONE)
    assert measured(horizon=1).shape == (1, 3)
    generator(3), inverse_dynamics(3), action_units()
