"""Plans that turned out better than is usual from their state are drawn more often."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict, TensorDictBase

from tests.settings import composed
from torchrl_td.config import Config, check_read
from torchrl_td.data import load_episodes
from torchrl_td.errors import InputError
from torchrl_td.training.advantage_tilt import tilted_draws
from torchrl_td.training.trainer import Trainer

STRIDED = (
    "preset=strided",
    "task.strided_horizon=4",
    "task.stride=1",
    "task.scored=false",
    "generator.members=1",
    "inverse_dynamics.members=1",
    "inverse_dynamics.plan_states=3",
    "value.hidden_dims=[16]",
    "value.expectile=0.7",
    "training.batch_size=256",
    "dataset.validation_share=0",
)


@pytest.fixture
def make_trainer(tiny_config: Callable[..., Config]) -> Callable[..., Trainer]:
    def make(*words: str) -> Trainer:
        return Trainer(tiny_config(*STRIDED, *words), paid_by_action(), torch.device("cpu"))

    return make


def paid_by_action(steps: int = 4000) -> TensorDictBase:
    """States that mean nothing, and actions of -1 or 1 that are the reward."""
    torch.manual_seed(0)  # the same at every call
    action = torch.randn(steps, 1).sign()
    ends = torch.zeros(steps, 1, dtype=torch.bool)
    ends[49::50] = True
    return load_episodes(
        TensorDict(
            observation=torch.randn(steps, 2),
            action=action,
            next=TensorDict(
                observation=torch.randn(steps, 2),
                reward=action.clone(),
                terminated=torch.zeros_like(ends),
                truncated=ends,
                done=ends,
                batch_size=[steps],
            ),
            batch_size=[steps],
        )
    )


@given(st.integers(1, 40), st.integers(1, 3), st.floats(0, 5), st.integers(0, 10**6))
def test_each_row_comes_up_as_often_as_its_weight_says(
    count: int, pool: int, tilt: float, seed: int
) -> None:
    """Systematic resampling: the weight's share of the draws, rounded down or up."""
    generator = torch.Generator().manual_seed(seed)
    advantage = torch.randn(max(2, count * pool), generator=generator)
    drawn = tilted_draws(advantage, tilt, pool)
    assert len(drawn) == len(advantage) // pool
    z = (advantage - advantage.mean()) / advantage.std()
    weight = (tilt * z).exp().clamp(max=20).double()
    expected = len(drawn) * weight / weight.sum()
    times = torch.bincount(drawn, minlength=len(advantage))
    assert (times >= expected.floor() - 1e-4).all() and (times <= expected.ceil() + 1e-4).all()


def test_rows_that_do_not_differ_are_drawn_evenly() -> None:
    assert torch.equal(tilted_draws(torch.ones(6), 3.0).sort().values, torch.arange(6))


def mean_action(trainer: Trainer) -> float:
    for _ in range(5):
        trainer.train_step()
    batch = trainer.algorithm.prepare(trainer.buffer.sample())
    return float(batch["inverse_dynamics", "action"].mean())


def test_better_actions_are_what_is_learnt(make_trainer: Callable[..., Trainer]) -> None:
    """A plan brings three rewards, of which the first is its action: tanh(2 / sqrt 3) is 0.82."""
    assert mean_action(make_trainer("training.advantage_tilt=2")) == pytest.approx(0.82, abs=0.2)
    assert mean_action(make_trainer()) == pytest.approx(0, abs=0.2)


def test_all_parts_start_as_they_do_without(make_trainer: Callable[..., Trainer]) -> None:
    """The value is the losses' alone: a checkpoint's model is the same, and needs no more."""
    plain, tilted = (make_trainer(*words).model for words in ((), ("training.advantage_tilt=2",)))
    mine, its = plain.state_dict(), tilted.state_dict()
    assert mine.keys() == its.keys() and all(torch.equal(mine[key], its[key]) for key in mine)


def test_the_value_that_tells_is_the_one_that_is_trained(
    make_trainer: Callable[..., Trainer],
) -> None:
    trainer = make_trainer("training.advantage_tilt=2")
    value = trainer.algorithm.plan_value
    before = [parameter.clone() for parameter in value.parameters()]
    trainer.train_step()
    assert not any(map(torch.equal, before, value.parameters()))


def test_is_of_plans_drafted_at_once_for_a_return() -> None:
    for words in (["preset=small"], ["preset=strided", "task=maze2d/umaze"]):
        with pytest.raises(InputError, match=r"generator\.kind=plan and task\.scored=false"):
            check_read(composed(*words), ["training.advantage_tilt=1"])
