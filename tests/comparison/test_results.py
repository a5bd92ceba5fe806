"""What may stand side by side in a comparison, its intervals in closed form, its tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchrl_td.comparison.intervals import (
    bootstrap_mean,
    interquartile_mean,
    probability_of_improvement,
)
from torchrl_td.comparison.plots import plot_comparison, score_range
from torchrl_td.comparison.results import check_comparable, read_result
from torchrl_td.comparison.tables import markdown, origin_of
from torchrl_td.errors import InputError

try:
    import rliable.library
    import rliable.metrics

    RLIABLE = True
except (ImportError, TypeError):  # a TypeError: its dependency arch 7 with pandas 3
    RLIABLE = False
needs_rliable = pytest.mark.skipif(not RLIABLE, reason="rliable does not import: pandas < 3?")


def entry(name: str, scores: list[float]) -> dict[str, Any]:
    """One entry of a results.json."""
    return {
        "name": name,
        "scores": scores,
        "returns": scores,
        "success_rate": 0.5,
        "seconds_per_plan_median": 0.002,
    }


def result(
    algorithm: str, seed: int, scores: list[float], task: str = "pointmaze/umaze", **more: Any
) -> dict[str, Any]:
    """What a comparison keeps of a run, with what is read of it."""
    planner = algorithm == "trajectory_diffuser"
    names = ("generator", "refined") if planner else (algorithm,)
    dataset = {"source": f"minari:{task}-v0", "hash": "1f2e3d4c5b", "transitions": 9, "episodes": 3}
    return {
        "algorithm": algorithm,
        "task": task,
        "environment": "PointMaze_UMaze-v3",
        "dataset": {**dataset, "score_mean": 1.0, "score_best": 2.0},
        "preset": "small" if planner else None,
        "seed": seed,
        "training_steps": 100,
        "training_seconds": 60.0,
        "target_return": 260.0,
        "planner": {"refine_steps": 5} if planner else {},
        "settings": {"evaluation": {"episodes": len(scores), "seed": 1000}},
        "versions": {"torch": "2.13.0"},
        "machine": {"processor": "a CPU", "cores": 2},
        "threads": 1,
        "curves": {},
        "results": [entry(name, scores) for name in names],
        **more,
    }


def test_equal_experiments_are_comparable() -> None:
    check_comparable(
        [
            ("a", result("bc", 0, [1.0, 2.0])),
            ("b", result("bc", 1, [3.0, 4.0])),
            ("c", result("iql", 0, [1.0, 2.0], settings={"algorithm": 1, **_evaluation(2)})),
            ("d", result("bc", 0, [1.0, 2.0], "maze2d/umaze", dataset={"hash": "other"})),
        ]
    )


@pytest.mark.parametrize("enabled", [False, True])
def test_settings_of_a_part_that_is_off_do_not_count(enabled: bool) -> None:
    one, other = (
        result("bc", seed, [1.0, 2.0], settings={"value": value, **_evaluation(2)})
        for seed, value in enumerate({"enabled": enabled, "members": n} for n in (1, 3))
    )
    if not enabled:
        return check_comparable([("a", one), ("b", other)])
    with pytest.raises(InputError, match="of other settings than a: settings value members 3, not"):
        check_comparable([("a", one), ("b", other)])


@pytest.mark.parametrize("enabled", [False, True])
def test_a_result_older_than_a_part_is_one_without_it(enabled: bool) -> None:
    older = result("bc", 0, [1.0, 2.0], settings=_evaluation(2))
    newer = {"returns_limit": {"enabled": enabled}, **_evaluation(2)}
    results = [("a", older), ("b", result("bc", 1, [1.0, 2.0], settings=newer))]
    if not enabled:
        return check_comparable(results)
    with pytest.raises(InputError, match="of other settings than a: settings returns_limit enab"):
        check_comparable(results)


@pytest.mark.parametrize("tilt", [0.0, 5.0])
def test_a_result_older_than_a_setting_has_its_default(tilt: float) -> None:
    one, other = (
        result("bc", seed, [1.0, 2.0], settings={"training": training, **_evaluation(2)})
        for seed, training in enumerate(({}, {"return_tilt": tilt}))
    )
    if not tilt:
        return check_comparable([("a", one), ("b", other)])
    with pytest.raises(InputError, match=r"settings training return_tilt 5\.0, not 0\.0"):
        check_comparable([("a", one), ("b", other)])


def _evaluation(episodes: int) -> dict[str, Any]:
    return {"evaluation": {"episodes": episodes, "seed": 1000}}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"versions": {"torch": "2.11.0"}}, "b is of other versions than a: torch 2.11.0, not 2.1"),
        ({"dataset": {"hash": "ffff"}}, "b is of other data than a: ffff, not 1f2e3d4c5b"),
        ({"environment": "PointMaze_UMaze-v9"}, "b is of other environment than a: PointMaze_UMa"),
        ({"settings": _evaluation(50)}, "b is of other episodes than a: episodes 50, not 2"),
        ({"training_steps": 7}, "b is of other settings than a: training_steps 7, not 100"),
        (
            {"init_from": {"step": 5}},
            "b is of other settings than a: init_from {'step': 5}, not N",
        ),
        ({"target_return": 9.0}, "b is of other settings than a: target_return 9.0, not 260.0"),
    ],
)
def test_other_experiments_are_named_in_one_line(more: dict[str, Any], message: str) -> None:
    one, other = result("rcbc", 0, [1.0, 2.0]), result("rcbc", 1, [1.0, 2.0], **more)
    with pytest.raises(InputError, match=message) as caught:
        check_comparable([("a", one), ("b", other)])
    assert "\n" not in str(caught.value)


def test_half_written_results_are_named(tmp_path: Path) -> None:
    path = tmp_path / "seed0.json"
    whole = json.dumps(result("bc", 0, [1.0, 2.0]))
    path.write_text(whole)
    assert read_result(path)["algorithm"] == "bc"
    lost = json.loads(whole)
    lost["results"][0]["scores"] = [1.0]
    no_number = json.loads(whole)
    no_number["results"][0]["scores"] = [1.0, float("nan")]
    unnamed = {key: value for key, value in json.loads(whole).items() if key != "preset"}
    untimed = json.loads(whole)
    del untimed["results"][0]["seconds_per_plan_median"]
    wrong = (
        {"settings": None},
        {"settings": {"training": {}}},
        {"settings": {"evaluation": {"episodes": 3}}},
        {"dataset": {"source": "minari:mine-v0"}},
    )
    damaged = (lost, no_number, untimed, unnamed, *(json.loads(whole) | one for one in wrong))
    for text in (whole[: len(whole) // 2], "{}", "[]", *map(json.dumps, damaged)):
        path.write_text(text)
        with pytest.raises(InputError, match=r"seed0\.json: not a whole result .* remove it") as e:
            read_result(path)
        assert "\n" not in str(e.value)


@needs_rliable
def test_tables_tell_what_was_measured() -> None:
    results = [
        result(name, seed, [base + seed, base + 2 + seed], task)
        for task in ("pointmaze/umaze", "maze2d/umaze")
        for name, base in (("trajectory_diffuser", 100.0), ("bc", 50.0))
        for seed in (0, 1, 2)
    ]
    controller = result("controller", 0, [155.0, 150.0], dataset=None, training_seconds=None)
    text = markdown([*results, controller])
    assert "| bc | 52.0 ± 1.3 | " in text and "| 50 % | 3 × 2 | 60 | 2.00 |" in text
    assert "| planner small, draft | 102.0" in text and "| planner small, refined | 102.0" in text
    assert "| controller | 152.5 ± 2.5 |" in text and "score (D4RL's sum)" in text
    assert "## Over 2 tasks, data recorded by this project" in text
    assert "| planner small, refined | bc | 1.00 | 1.00 to 1.00 |" in text
    assert "2 × a CPU, threads 1" in text and "torch 2.13.0" in text


@needs_rliable
def test_the_lead_is_of_the_same_seed_and_start() -> None:
    """Starts and seeds that differ by 40 points take nothing from a lead of 3 on each of them."""
    starts = np.array([100.0, 140.0])
    planners = [result("trajectory_diffuser", seed, []) for seed in (0, 40)]
    for planner in planners:
        refined = starts + planner["seed"]
        planner["results"] = [
            entry("generator", list(refined - 3)),
            entry("refined", list(refined)),
        ]
    controller = result("controller", 0, list(starts + 50), dataset=None, training_seconds=None)
    other_starts = [result("bc", seed, [1.0, 2.0, 3.0]) for seed in (0, 40)]
    lines = markdown([*planners, controller, *other_starts]).splitlines()
    leads = {
        cells[1].strip(): cells[4].strip() for line in lines if len(cells := line.split("|")) > 8
    }
    assert leads["planner small, draft"] == "+3.0 (+3.0 to +3.0)"
    assert leads["controller"] == "-30.0 (-50.0 to -10.0)"
    assert leads["planner small, refined"] == leads["bc"] == ""


@needs_rliable
@pytest.mark.parametrize("seeds", [(1, 2), (1,)])
def test_other_seeds_have_no_lead(seeds: tuple[int, ...]) -> None:
    """As where a run of each failed: the first of one is not the first of the other."""
    planners = [result("trajectory_diffuser", seed, [100.0, 140.0]) for seed in (0, 1)]
    others = [result("rcbc", seed, [90.0, 120.0]) for seed in seeds]
    lines = markdown([*planners, *others]).splitlines()
    (line,) = (line for line in lines if line.startswith("| rcbc | 105.0 ±"))
    assert line.split("|")[4].strip() == ""


@needs_rliable
def test_data_of_other_origin_is_never_in_one_mean() -> None:
    zoo = {"source": "minari:zoo/hopper/medium-v0", "hash": "a", "transitions": 1, "episodes": 1}
    scores = {"score_mean": 1.0, "score_best": 2.0}
    results = [
        result("bc", seed, [base], task, dataset={**dataset, **scores})
        for task, base, dataset in (
            ("zoo/hopper/medium", 10.0, zoo),
            ("hopper/medium", 30.0, {**zoo, "source": "d4rl:hopper-medium-v2"}),
        )
        for seed in (0, 1)
    ]
    text = markdown(results)
    assert "data D4RL's files" in text and "not D4RL's data" in text
    assert "| bc | 10.0 | 10.0 to 10.0 |" in text and "| bc | 30.0 | 30.0 to 30.0 |" in text


@pytest.mark.parametrize(
    ("source", "origin"),
    [
        ("d4rl:door-v0_demos_clipped.hdf5", "d4rl"),
        ("d4rl:data/hopper_medium-v2.hdf5", "d4rl"),
        ("d4rl:my_arm.hdf5", "other"),
        ("minari:my/arm-v0", "minari"),
        ("minari:pointmaze/umaze-v0", "recorded"),
    ],
)
def test_a_file_of_one_s_own_is_not_called_d4rl_s(source: str, origin: str) -> None:
    assert origin_of(source) == origin


def test_bootstrap_of_a_task_draws_seeds_and_their_episodes() -> None:
    rng = np.random.default_rng(0)
    assert bootstrap_mean(np.full((3, 20), 5.0)) == (5.0, 5.0)
    episodes = bootstrap_mean(rng.normal(0, 10, (1, 400)))
    assert episodes[1] - episodes[0] == pytest.approx(2 * 1.96 * 10 / 20, rel=0.15)
    seeds = bootstrap_mean(np.repeat([[0.0], [10.0], [20.0]], 50, 1))
    assert seeds == pytest.approx((0.0, 20.0), abs=3.4)  # seeds that differ are what is unsure


@needs_rliable
def test_interquartile_mean_in_closed_form() -> None:
    scores = np.arange(16, dtype=float).reshape(4, 4)  # the middle half is 4 .. 11
    iqm, (low, high) = interquartile_mean(scores)
    assert iqm == 7.5 and low < 7.5 < high
    assert interquartile_mean(scores) == (iqm, [low, high])  # the same draws every time
    outlier = scores.copy()
    outlier[3, 3] = 1e6
    assert interquartile_mean(outlier)[0] == 7.5
    # Stratified: tasks that differ widely and seeds that do not leave nothing to doubt.
    assert interquartile_mean(np.array([[10.0, 50.0, 90.0, 130.0]] * 5))[1] == [70.0, 70.0]


@needs_rliable
def test_probability_of_improvement_in_closed_form() -> None:
    low, high = np.zeros((3, 2)), np.ones((3, 2))
    assert probability_of_improvement(high, low) == (1.0, [1.0, 1.0])
    assert probability_of_improvement(low, low) == (0.5, [0.5, 0.5])
    mixed = np.array([[1.0, -1.0]] * 3)  # better on one task, worse on the other
    assert probability_of_improvement(mixed, low)[0] == 0.5


@needs_rliable
def test_probability_of_improvement_is_rliables() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(4, size=(2, 5, 7)).astype(float)  # with ties
    want = rliable.metrics.probability_of_improvement(ours, theirs)
    assert probability_of_improvement(ours, theirs, reps=10)[0] == pytest.approx(want)


def test_a_picture_does_not_magnify_noise(tmp_path: Path) -> None:
    assert score_range((41.2, 42.1)) == (0.0, 100.0)
    assert score_range((-20.0, 170.0)) == (-20.0, 170.0)
    curves = {"bc": [[10.0, 20.0, 5.0], [20.0, 40.0, 5.0]]}
    controller = result("controller", 0, [155.0, 150.0], dataset=None, training_seconds=None)
    results = [*(result("bc", seed, [40.0, 41.0], curves=curves) for seed in (0, 1)), controller]
    plot_comparison(results, tmp_path / "comparison.png")
    assert (tmp_path / "comparison.png").stat().st_size > 5000
