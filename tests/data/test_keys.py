"""The order of an observation's entries is one on the data's and the environment's side."""

from __future__ import annotations

import pytest
from torchrl.envs import GymWrapper

from tests.data.helpers import BOX, GOAL
from torchrl_td.data import observation_keys
from torchrl_td.data.pointmaze import make_pointmaze
from torchrl_td.errors import TDError


def test_the_order_is_the_same_for_spaces_specs_and_data() -> None:
    env = make_pointmaze("umaze")
    wrapped = GymWrapper(env)
    assert observation_keys(env.observation_space) == ["observation", "desired_goal"]
    assert observation_keys(wrapped.observation_spec) == ["observation", "desired_goal"]
    assert observation_keys(GOAL) == ["observation", ("desired_goal", "a"), ("desired_goal", "b")]
    assert observation_keys(BOX) == ["observation"]
    with pytest.raises(TDError, match="no entries"):
        observation_keys({})
    env.close()
