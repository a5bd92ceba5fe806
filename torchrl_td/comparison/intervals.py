"""Intervals of scores: a task's by a bootstrap of our own, over tasks by rliable's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from torchrl_td.advice import install
from torchrl_td.errors import InputError

_REPS = 2000


def bootstrap_mean(scores: np.ndarray, reps: int = _REPS, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of ``scores`` [seeds, episodes].

    Seeds are drawn anew, and within each seed its episodes.
    """
    rng = np.random.default_rng(seed)
    seeds, episodes = scores.shape
    which = rng.integers(seeds, size=(reps, seeds, 1))
    means = scores[which, rng.integers(episodes, size=(reps, seeds, episodes))].mean((1, 2))
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def interquartile_mean(
    scores: np.ndarray, reps: int = _REPS, seed: int = 0
) -> tuple[float, list[float]]:
    """Mean of the middle half of ``scores`` [seeds, tasks], and its 95 % bootstrap interval.

    The bootstrap is stratified: seeds are drawn anew within each task.

    Raises:
        InputError: rliable is not installed, or does not import.
    """
    _, metrics = _rliable()

    def statistic(values: np.ndarray) -> np.ndarray:
        return np.array([metrics.aggregate_iqm(values)])

    return _interval(scores, statistic, reps, seed)


def probability_of_improvement(
    ours: np.ndarray, theirs: np.ndarray, reps: int = _REPS, seed: int = 0
) -> tuple[float, list[float]]:
    """Chance that a run of ``ours`` [seeds, tasks] beats one of ``theirs`` on the same task.

    Raises:
        InputError: rliable is not installed, or does not import.
    """

    def statistic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        # rliable's, without the test of significance that takes most of its time.
        difference = x[:, None] - y[None]
        return np.array([np.mean((difference > 0) + 0.5 * (difference == 0))])

    return _interval((ours, theirs), statistic, reps, seed)


def _interval(
    scores: Any, statistic: Callable[..., np.ndarray], reps: int, seed: int
) -> tuple[float, list[float]]:
    library, _ = _rliable()
    with _seeded(seed):
        points, intervals = library.get_interval_estimates({"scores": scores}, statistic, reps=reps)
    low, high = intervals["scores"][:, 0]
    return float(points["scores"][0]), [float(low), float(high)]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """rliable draws from NumPy's global state, whatever it is given."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def _rliable() -> tuple[Any, Any]:
    try:
        from rliable import library, metrics
    except (ImportError, TypeError) as error:  # a TypeError: arch 7 with pandas 3
        raise InputError(
            f"interquartile means need rliable ({error}); {install('report')} with pandas < 3"
        ) from error
    return library, metrics
