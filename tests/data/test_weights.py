"""Steps drawn in proportion to weights, and the weights that prefer better episodes."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from torchrl_td.config import Config
from torchrl_td.data import WindowSampler, load_episodes
from torchrl_td.data.return_tilt import tilted_weights
from torchrl_td.errors import InputError
from torchrl_td.training.trainer import Trainer


def weighted_buffer(weight: Tensor, batch_size: int = 20_000) -> TensorDictReplayBuffer:
    """Episodes of ten steps, numbered as rows, with a weight each."""
    row = torch.arange(len(weight))
    data = TensorDict(row=row, episode=row // 10, weight=weight, batch_size=[len(weight)])
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(2 * len(weight)),
        sampler=WindowSampler(3, history=1, weight_key="weight"),
        batch_size=batch_size,
    )
    buffer.extend(data)
    return buffer


@given(
    weights=st.lists(st.sampled_from([0.0, 0.25, 1.0, 7.0]), min_size=10, max_size=30).filter(any),
    column=st.booleans(),
)
def test_steps_are_drawn_in_proportion(weights: list[float], column: bool) -> None:
    weight = torch.tensor(weights + [0.0] * (-len(weights) % 10))
    torch.manual_seed(0)
    window = weighted_buffer(weight.unsqueeze(-1) if column else weight).sample()
    drawn = torch.bincount(window["row"][:, 0], minlength=len(weight)) / len(window)
    assert not drawn[weight == 0].any()
    torch.testing.assert_close(drawn, weight / weight.sum(), atol=0.02, rtol=0)


def test_weights_are_read_again_when_the_storage_changes() -> None:
    buffer = weighted_buffer(torch.ones(10), batch_size=64)
    buffer.sample()
    row = torch.arange(10, 20)
    heavy = TensorDict(row=row, episode=row // 10, weight=torch.full([10], 1e9), batch_size=[10])
    buffer.extend(heavy)
    assert (buffer.sample()["row"] >= 10).all()


def test_weights_written_in_place_are_read_again() -> None:
    buffer = weighted_buffer(torch.ones(20), batch_size=64)
    buffer.sample()
    buffer.storage.get(slice(None))["weight"][:10] = 0
    assert (buffer.sample()["row"] >= 10).all()


def test_a_sampler_sent_to_another_process_keeps_its_weights() -> None:
    sampler = pickle.loads(pickle.dumps(weighted_buffer(torch.ones(10)).sampler))
    assert sampler.weight_key == "weight"


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.zeros(10), "not all 0"),
        (torch.ones(10).index_fill(0, torch.tensor(3), -1.0), "0 or more"),
        (torch.ones(10).index_fill(0, torch.tensor(3), math.nan), "finite"),
        (torch.ones(10).index_fill(0, torch.tensor(3), math.inf), "finite"),
        (torch.ones(10, 2), "one weight for each step"),
    ],
)
def test_weights_that_cannot_be_drawn_by(weight: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        weighted_buffer(weight).sample()


def test_weights_that_are_missing() -> None:
    buffer = weighted_buffer(torch.ones(10))
    buffer.sampler.weight_key = ("collector", "weight")
    with pytest.raises(InputError, match=r"no entry \('collector', 'weight'\)"):
        buffer.sample()


def episodes_of(returns: list[float], length: int = 3) -> TensorDict:
    """Episodes of the same length, numbered with gaps, that are paid at their end."""
    number = 2 * torch.arange(len(returns)).repeat_interleave(length) + 1
    reward = torch.zeros(len(returns), length)
    reward[:, -1] = torch.tensor(returns)
    return TensorDict(
        episode=number,
        next=TensorDict(reward=reward.reshape(-1, 1), batch_size=[len(number)]),
        batch_size=[len(number)],
    )


@given(
    returns=st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=12),
    tilt=st.floats(0, 20),
)
def test_the_tilt_by_hand(returns: list[float], tilt: float) -> None:
    """Each episode beats those below it, and half of those as good."""
    others = max(1, len(returns) - 1)
    ranks = [
        (sum(r < mine for r in returns) + (sum(r == mine for r in returns) - 1) / 2) / others
        for mine in returns
    ]
    logarithm = torch.tensor([tilt * (rank - 1) for rank in ranks]).repeat_interleave(3)
    weight = tilted_weights(episodes_of(returns), tilt)
    torch.testing.assert_close(weight.log().float(), logarithm, rtol=1e-4, atol=1e-5)


def test_a_tilt_of_five_gives_the_best_tenth_two_fifths() -> None:
    """As the preset says."""
    weight = tilted_weights(episodes_of([float(r) for r in range(1000)]), 5.0)
    assert float(weight[-300:].sum() / weight.sum()) == pytest.approx(0.4, abs=0.005)


@pytest.mark.parametrize("preset", ["strided", "small"])
def test_training_draws_better_episodes_more_often(
    tiny_config: Callable[..., Config], tiny_pointmaze: str, preset: str
) -> None:
    """Of plans and of windows alike."""
    words = (
        f"preset={preset}",
        "task.strided_horizon=4",
        "task.stride=2",
        "training.return_tilt=20",
    )

    def mean_weight(*more: str) -> float:
        config = tiny_config(*words, "training.batch_size=512", *more)
        trainer = Trainer(config, load_episodes(tiny_pointmaze), torch.device("cpu"))
        weight = tilted_weights(load_episodes(tiny_pointmaze)[trainer.rows], 20.0)
        row = trainer.algorithm.rows(trainer.buffer.sample())
        return float(weight[row].mean() / weight.mean())

    assert mean_weight("task.scored=false") > 2
    assert mean_weight("task.scored=false", "training.return_tilt=0") == pytest.approx(1, abs=0.5)
