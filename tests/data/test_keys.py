"""The order of an observation's entries is one on the data's and the environment's side."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs import GymWrapper

from tests.data.helpers import BOX, GOAL, WriteMinari
from torchrl_td.data import load_episodes, observation_keys
from torchrl_td.data.mazes.pointmaze import make_pointmaze
from torchrl_td.data.validation import warn_once
from torchrl_td.errors import InputError


def test_the_order_is_the_same_for_spaces_specs_and_data() -> None:
    env = make_pointmaze("umaze")
    wrapped = GymWrapper(env)
    assert observation_keys(env.observation_space) == ["observation", "desired_goal"]
    assert observation_keys(wrapped.observation_spec) == ["observation", "desired_goal"]
    assert observation_keys(GOAL) == ["observation", ("desired_goal", "a"), ("desired_goal", "b")]
    assert observation_keys(BOX) == ["observation"]
    with pytest.raises(InputError, match="no entries"):
        observation_keys({})
    env.close()


@pytest.mark.parametrize("nested", [True, False])
def test_a_goal_achieved_that_the_observation_lacks(nested: bool, warned: list[str]) -> None:
    """As in AntMaze; in the other goal tasks the observation holds it, in some with noise."""

    def steps(noise: float) -> TensorDict:
        place = 5 * torch.randn(81, 2)
        pose = torch.cat([torch.randn(81, 3), place + noise * torch.randn(81, 2)], -1)
        goal = {"observation": pose, "achieved_goal": place, "desired_goal": torch.zeros(81, 2)}
        now, after = ({k: v[rows] for k, v in goal.items()} for rows in (slice(80), slice(1, 81)))
        if nested:
            now, after = {"observation": now}, {"observation": after}
        end = {"reward": torch.rand(80, 1), "done": torch.arange(80).unsqueeze(-1) % 40 == 39}
        data = {**now, "next": {**after, **end}, "action": torch.rand(80, 2)}
        return TensorDict(data, batch_size=[80])

    for noise in (0.0, 0.01):
        load_episodes(steps(noise))
    assert warned == []
    data = load_episodes(steps(100.0))
    assert data["observation"].shape == (80, 7) and len(warned) == 1
    assert "set observation_keys to [achieved_goal, observation, desired_goal]" in warned[0]
    load_episodes(steps(100.0), observation_keys=["observation", "desired_goal"])
    assert len(warned) == 1  # what is chosen is chosen


def test_a_minari_dataset_without_its_goal(
    write_minari: WriteMinari, warned: list[str], tiny_pointmaze: str
) -> None:
    write_minari("made/lacking-v0", goal=True)
    for _ in range(2):  # from the files, then from the cache
        warn_once.cache_clear()
        load_episodes("minari:made/lacking-v0")
    assert len(warned) == 2 and "minari:made/lacking-v0: achieved_goal is left" in warned[0]
    load_episodes(tiny_pointmaze)  # it holds the place
    assert len(warned) == 2
