"""Algorithms where their best policy is known, and how it is known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.known_optimum import STEPS, best_tenth, cloned, episodes, played, read_words
from torchrl_td.errors import InputError


def test_data_of_one_speed_is_cloned_at_that_speed() -> None:
    speed = np.full((STEPS, 1), 0.5, np.float32)
    place = 0.1 * np.arange(STEPS, dtype=np.float32)[:, None] * speed
    assert cloned([{"observations": place, "actions": speed}]) == pytest.approx(0.5 * STEPS)
    assert cloned(best_tenth(episodes())) == pytest.approx(0.925 * STEPS, abs=0.5)


@pytest.mark.parametrize("algorithm", ["bc_best", "rcbc", "trajectory_diffuser"])
def test_brings_what_it_should(algorithm: str) -> None:
    """From data to a policy that is played: what the best tenth brings, or what is asked for."""
    found = list(played(algorithm, 0, episodes()))
    assert len(found) == (1 if algorithm == "bc_best" else 3)
    for row in found:
        assert row["made"] == pytest.approx(row["known"], abs=1), row


def test_words_that_it_does_not_know() -> None:
    assert read_words(["algorithms=bc", "seeds=4"])[:2] == (["bc"], [4])
    for word in ("steps=3", "bc"):
        with pytest.raises(InputError, match=r"unknown word .* allowed are algorithms="):
            read_words([word])
    with pytest.raises(InputError, match="algorithms=best; allowed are bc, "):
        read_words(["algorithms=best"])
    with pytest.raises(InputError, match="seeds=x; allowed are whole numbers"):
        read_words(["seeds=x"])
