"""The numbers and warnings of a dataset's description."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from torchrl_td.data import load_episodes
from torchrl_td.data.source_info import SourceInfo, source_info
from torchrl_td.data.statistics import (
    describe,
    episode_returns,
    quality_warnings,
    saturated_share,
    suggested_returns_scale,
    suggested_target_return,
)


def dataset(lengths: tuple[int, ...] = (4, 2, 6), **replace: torch.Tensor) -> TensorDict:
    """Episodes of random numbers; the last step of each terminates it."""
    count = sum(lengths)
    done = torch.zeros(count, 1, dtype=torch.bool)
    done[torch.tensor(lengths).cumsum(0) - 1] = True
    observation = replace.get("observation", torch.randn(count, 3))
    following = observation.roll(-1, 0)
    return load_episodes(
        TensorDict(
            {
                "observation": observation,
                "action": replace.get("action", torch.rand(count, 2) - 0.5),
                "next": {
                    "observation": replace.get("following", following),
                    "reward": replace.get("reward", torch.arange(count).float().unsqueeze(-1)),
                    "terminated": done,
                    "truncated": torch.zeros_like(done),
                },
            },
            batch_size=[count],
        )
    )


def test_returns_and_lengths_are_each_episodes_own() -> None:
    returns, lengths = episode_returns(dataset())
    assert lengths.tolist() == [4, 2, 6]
    assert returns.tolist() == [0 + 1 + 2 + 3, 4 + 5, 6 + 7 + 8 + 9 + 10 + 11]


def test_numbers_against_numpy() -> None:
    data = dataset()
    info = SourceInfo("Some-v0", (-1.0, -1.0), (1.0, 1.0), ref_min_score=1.0, ref_max_score=51.0)
    numbers = describe(data, info)
    returns = np.array([6.0, 9.0, 51.0])
    score = 100 * (returns - 1) / 50
    assert numbers["environment"] == "Some-v0"
    assert (numbers["transitions"], numbers["episodes"]) == (12, 3)
    for key, values in (("return", returns), ("score", score), ("length", np.array([4, 2, 6]))):
        want = [values.mean(), values.std(), values.min(), values.max()]
        assert np.allclose(list(numbers[key].values()), want)
    assert (numbers["terminations"], numbers["truncations"]) == (3, 0)
    assert np.allclose(numbers["observation"]["low"], data["observation"].numpy().min(0))
    assert np.allclose(numbers["action"]["high"], data["action"].numpy().max(0))


def test_no_references_means_no_score() -> None:
    assert describe(dataset())["score"] is None


@pytest.mark.parametrize("largest", [1e-3, 0.5, 1.0, 161.86, 999.0, 4100.0, 8000.0, 12135.0])
def test_scale_brings_the_largest_return_to_between_one_and_four(largest: float) -> None:
    assert 1 <= largest / suggested_returns_scale(largest) <= 4 + 1e-9


def test_target_return_of_zero_and_negative_returns() -> None:
    assert suggested_target_return(torch.zeros(5)) == 0
    assert suggested_target_return(torch.tensor([-1234.0, -1234.0])) == -1200


def test_saturated_share_uses_the_bounds() -> None:
    action = torch.tensor([[2.0, 0.0], [-2.0, 0.5], [1.0, 1.0], [0.0, 0.0]])
    info = SourceInfo(action_low=(-2.0, -1.0), action_high=(2.0, 1.0))
    assert saturated_share(action, info) == 3 / 8


def test_sound_data_raises_no_suspicion() -> None:
    assert quality_warnings(dataset()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"observation": torch.randn(12, 3) * torch.tensor([1.0, 0, 1])},
            "constant in dimension 1",
        ),
        ({"observation": torch.randn(12, 1).expand(12, 3)}, "repeats itself in dimension 1 (of 0)"),
        ({"action": torch.full((12, 2), 1.5) + torch.rand(12, 2)}, "100 % of the actions lie out"),
        ({"reward": torch.zeros(12, 1)}, "all rewards are zero"),
        ({"lengths": (12,)}, "one episode only"),
        ({"lengths": (1, 1, 10)}, "2 of 3 episodes have a single step"),
        (
            {"following": torch.randn(12, 3)},
            "not the observation of the step after it in 100 % of the steps, first in row 0",
        ),
        ({"lengths": (6, 6), "reward": torch.ones(12, 1)}, "all returns are equal"),
    ],
)
def test_suspicions(change: dict, message: str) -> None:
    assert any(message in found for found in quality_warnings(dataset(**change)))


def test_a_copy_is_told_from_a_near_copy() -> None:
    observation = torch.randn(1000, 2)
    observation[:, 1] = observation[:, 0]
    assert any(
        "repeats" in s for s in quality_warnings(dataset((500, 500), observation=observation))
    )
    observation[501, 1] += 1e-3
    assert not any(
        "repeats" in s for s in quality_warnings(dataset((500, 500), observation=observation))
    )


def test_info_of_a_minari_dataset(tiny_pointmaze: str) -> None:
    info = source_info(tiny_pointmaze)
    bounds = (-1.0, -1.0), (1.0, 1.0)
    assert info.environment_kwargs["continuing_task"] is True
    assert info == SourceInfo(
        "PointMaze_UMaze-v3", *bounds, 23.85, 161.86, info.environment_kwargs, 300
    )


def test_info_of_d4rl_names_and_paths() -> None:
    assert source_info("d4rl:maze2d-large-v1").ref_max_score == 273.99
    assert source_info("d4rl:some/where/door-v0_demos_clipped.hdf5").ref_min_score == -56.512833
    assert source_info("d4rl:my-own-v0").ref_min_score is None
