"""What is trained on and what is held out."""

from __future__ import annotations

import re
from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from tensordict import TensorDict
from torchrl import torchrl_logger

from torchrl_td.config import Config
from torchrl_td.data import load_episodes
from torchrl_td.data.validation import warn_once
from torchrl_td.training.buffers import draws_state, make_buffer, restore_draws, split_episodes
from torchrl_td.training.trainer import Trainer


def numbered(*lengths: int) -> TensorDict:
    """Episodes of these lengths, and nothing but their numbers."""
    number = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return TensorDict(episode=number, batch_size=[len(number)])


def test_split_holds_whole_episodes_out() -> None:
    episodes = numbered(*[7] * 10)
    train, validation = split_episodes(episodes, 0.3, seed=1, window=4)
    assert validation is not None and len(validation) == 21 and len(train) == 49
    assert set(episodes["episode"][train].tolist()).isdisjoint(
        episodes["episode"][validation].tolist()
    )
    assert sorted(torch.cat([train, validation]).tolist()) == list(range(70))
    again, other = (split_episodes(episodes, 0.3, seed=s, window=4)[1] for s in (1, 2))
    assert torch.equal(validation, again) and not torch.equal(validation, other)


def test_a_split_of_long_episodes_is_the_plain_draw() -> None:
    chosen = torch.randperm(10, generator=torch.Generator().manual_seed(5))[:3]
    validation = split_episodes(numbered(*range(10, 20)), 0.3, seed=5, window=10)[1]
    assert validation is not None
    held_out = numbered(*range(10, 20))["episode"][validation].unique()
    assert held_out.tolist() == sorted(chosen.tolist())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("long", [2, 38])
def test_both_parts_have_an_episode_of_the_horizon(seed: int, long: int) -> None:
    """Few long ones might all be trained on, or with a large share all be held out."""
    episodes = numbered(*[3] * (40 - long), *[9] * long)
    for share in (0.025, 0.5):
        for rows in split_episodes(episodes, share, seed, window=9):
            assert rows is not None
            assert torch.bincount(episodes["episode"][rows]).max() == 9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "words", [[], ["preset=strided", "task.strided_horizon=4", "task.stride=2"]]
)
def test_held_out_episodes_that_are_short_are_trained_with(
    words: list[str], seed: int, tiny_config: Callable[..., Config]
) -> None:
    """Episodes of which nine in ten are shorter than a plan are sound data."""
    lengths = [5] * 27 + [20] * 3
    count = sum(lengths)
    done = torch.zeros(count, 1, dtype=torch.bool)
    done[torch.tensor(lengths).cumsum(0) - 1] = True
    state = torch.rand(count + 1, 3)
    episodes = load_episodes(
        TensorDict(
            observation=state[:-1],
            action=torch.rand(count, 2),
            next=TensorDict(
                observation=state[1:],
                reward=torch.ones(count, 1),
                done=done,
                batch_size=[count],
            ),
            batch_size=[count],
        )
    )
    config = tiny_config("dataset.validation_share=0.05", f"seed={seed}", *words)
    trainer = Trainer(config, episodes, torch.device("cpu"))
    assert all(torch.tensor(value).isfinite() for value in trainer.validate(2).values())


@pytest.mark.parametrize(
    ("lengths", "share", "says"),
    [
        ([9] * 12, 0.05, r"none of the 12 episodes .* set it to 0\.09 "),
        ([9] + [3] * 30, 0.2, "1 of 31 have the 8 steps of a plan, two are needed"),
    ],
)
def test_a_warning_says_that_nothing_is_held_out(
    lengths: list[int], share: float, says: str
) -> None:
    warn_once.cache_clear()
    with patch.object(torchrl_logger, "warning") as warning:
        for share_now in (share, share, 0.0):  # once, and not where none is wanted
            train, validation = split_episodes(numbered(*lengths), share_now, seed=0, window=8)
            assert validation is None and len(train) == sum(lengths)
    warning.assert_called_once()
    (line,) = warning.call_args.args
    assert re.search(says, line), line


def test_the_share_that_the_warning_names_holds_one_out() -> None:
    for count in range(2, 200):
        warn_once.cache_clear()
        with patch.object(torchrl_logger, "warning") as warning:
            split_episodes(numbered(*[2] * count), 1e-4, seed=0, window=2)
        share = float(warning.call_args.args[0].split("set it to ")[1].split()[0])
        validation = split_episodes(numbered(*[2] * count), share, seed=0, window=2)[1]
        assert validation is not None and 0.01 <= share <= 0.5


def test_draws_go_on_where_they_were() -> None:
    data = numbered(9, 12)
    count = len(data)
    data["observation"] = data["action"] = torch.rand(count, 2)
    data["returns_to_go"] = torch.rand(count, 1)
    data["next"] = data.select("observation", "returns_to_go")
    data["next", "done"] = torch.zeros(count, 1, dtype=torch.bool)
    buffer, other = (make_buffer(data, 8, 16, 5, torch.device("cpu")) for _ in range(2))
    first = buffer.sample()["index"]
    assert torch.equal(other.sample()["index"], first)
    buffer.sample()
    restore_draws(other, draws_state(buffer))
    assert torch.equal(other.sample()["index"], buffer.sample()["index"])
