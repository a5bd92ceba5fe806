"""The order of an observation's entries is one on the data's and the environment's side."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from torchrl.envs import GymWrapper

from torchrl_td.data import observation_keys
from torchrl_td.data.pointmaze import make_pointmaze
from torchrl_td.errors import TDError

BOX = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)


GOAL = gymnasium.spaces.Dict(
    {
        "observation": gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64),
        "achieved_goal": gymnasium.spaces.Dict({"b": BOX, "a": BOX}),
        "desired_goal": gymnasium.spaces.Dict({"b": BOX, "a": BOX}),
    }
)


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
