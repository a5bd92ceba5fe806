"""An environment has to fit the data."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs import GymEnv

from torchrl_td.data import check_matches_env
from torchrl_td.errors import InputError


def pendulum() -> GymEnv:
    return GymEnv("Pendulum-v1")


def fitting(**replace: torch.Tensor) -> TensorDict:
    entries = {"observation": torch.rand(6, 3), "action": torch.rand(6, 1)}
    return TensorDict({**entries, **replace}, batch_size=[6])


def test_an_environment_that_fits() -> None:
    action = torch.full((6, 1), 2.0)
    action[0] = -2.0001  # rounding
    check_matches_env(fitting(action=action), pendulum())


@pytest.mark.parametrize(
    ("replace", "message"),
    [
        ({"observation": torch.rand(6, 4)}, "observation has 4 numbers, the environment's 3"),
        ({"action": torch.rand(6, 2)}, "action has 2 numbers, the environment's 1"),
        (
            {"action": torch.tensor([0.0, 1, 2, 2.1, -3, 0])[:, None]},
            r"outside the environment's bounds in 33\.3 % of the steps, first in row 3; rescale",
        ),
    ],
)
def test_an_environment_that_does_not_fit(replace: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        check_matches_env(fitting(**replace), pendulum(), name="minari:mine-v0")
    assert str(caught.value).startswith("minari:mine-v0: ") and "\n" not in str(caught.value)
