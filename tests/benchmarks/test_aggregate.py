"""Scores over seeds and tasks: closed forms, and what must never be averaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.aggregate import aggregate, interquartile_mean, program, written
from torchrl_td.errors import InputError
from torchrl_td.experiment.cli import main as run_program

try:
    import rliable.library  # noqa: F401

    RLIABLE = True
except (ImportError, TypeError):  # a TypeError: its dependency arch 7 with pandas 3
    RLIABLE = False
needs_rliable = pytest.mark.skipif(not RLIABLE, reason="rliable does not import: pandas < 3?")


def write(
    folder: Path,
    task: str,
    seed: int,
    scores: dict[int, float],
    *,
    source: str | None = None,
    environment: str = "Hopper-v5",
    **more: Any,
) -> Path:
    """A results.json such as training writes, with what is read of it."""
    path = folder / f"{len(list(folder.iterdir()))}.json"
    summary = {
        "task": task,
        "dataset": {"source": source or f"d4rl:{task.replace('/', '-')}-v2"},
        "environment": environment,
        "preset": "small",
        "seed": seed,
        "training_steps": 100,
        "target_return": 3700.0,
        "results": [
            {"refine_steps": steps, "score_mean": score, "episodes": 10, "success_rate": None}
            for steps, score in scores.items()
        ],
        **more,
    }
    path.write_text(json.dumps(summary))
    return path


@pytest.fixture
def fake_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables without rliable: the plain mean for the interquartile mean."""

    def plain(scores: np.ndarray, reps: int) -> tuple[float, list[float]]:
        return float(scores.mean()), [float(scores.min()), float(scores.max())]

    monkeypatch.setattr("benchmarks.aggregate.interquartile_mean", plain)


def test_mean_and_deviation_are_over_seeds(tmp_path: Path, fake_bootstrap: None) -> None:
    paths = [
        write(tmp_path, task, seed, {0: base + seed, 5: base + 10 * seed})
        for task, base in (("hopper/medium", 10.0), ("walker2d/medium", 50.0))
        for seed in (0, 1, 2)
    ]
    table = aggregate(paths)["d4rl"]
    rows = {(row["task"], row["method"]): row for row in table["tasks"]}
    assert len(rows) == 4
    row = rows["hopper/medium in Hopper-v5", "small, 5 refine steps"]
    assert row["score_mean"] == 20.0 and row["score_std"] == pytest.approx(np.std([10, 20, 30]))
    assert row["seeds"] == 3 and row["episodes"] == 30 and row["success_rate"] is None
    refined, alone = table["methods"][0], table["methods"][1]
    assert refined["method"] == "small, 5 refine steps" and refined["iqm"] == 40.0
    assert alone["method"] == "small, generator alone" and alone["tasks"] == 2
    text = written(aggregate(paths))
    assert "20.0 ± 8.2" in text and "2 tasks, 3 seeds each" in text


def test_data_of_different_origin_and_environments_are_never_in_one_row(
    tmp_path: Path, fake_bootstrap: None
) -> None:
    paths = [
        write(tmp_path, "hopper/medium", 0, {5: 1.0}),
        write(tmp_path, "hopper/medium", 0, {5: 2.0}, environment="Hopper-v2"),
        write(tmp_path, "zoo/hopper/medium", 0, {5: 3.0}, source="minari:zoo/hopper/medium-v0"),
        write(tmp_path, "hopper/medium", 0, {5: 4.0}, source="minari:mujoco/hopper/medium-v0"),
        write(tmp_path, "maze2d/umaze", 0, {5: 5.0}, source="minari:maze2d/umaze-v0"),
    ]
    tables = aggregate(paths)
    assert list(tables) == ["d4rl", "zoo", "recorded", "minari"]
    assert [row["score_mean"] for row in tables["d4rl"]["tasks"]] == [2.0, 1.0]
    assert "not D4RL's data" in written(tables)


def test_planner_settings_make_another_method(tmp_path: Path, fake_bootstrap: None) -> None:
    fast = {"sampler": "ddim", "evaluations": 2, "replan_every": 1}
    paths = [
        write(tmp_path, "hopper/medium", 0, {5: 1.0}),
        write(tmp_path, "hopper/medium", 0, {5: 2.0}, planner=fast),
    ]
    methods = [row["method"] for row in aggregate(paths)["d4rl"]["methods"]]
    assert methods == [
        "small, 5 refine steps",
        "small, 5 refine steps, sampler=ddim, evaluations=2",
    ]


def told(width: int = 16, data: str = "1f2e", **more: Any) -> dict[str, Any]:
    """The part of a results.json that older versions did not write."""
    source = {"source": "d4rl:hopper-medium-v2", "hash": data * 16}
    settings = {"generator": {"kind": "gru", "width": width}, "task": {"horizon": 8}}
    return {"dataset": source, "settings": settings, **more}


def test_other_networks_data_or_planners_are_other_methods(
    tmp_path: Path, fake_bootstrap: None
) -> None:
    """Of seeds that are told apart by nothing else, these and older results are never averaged."""
    ddim = {"planner": {"sampler": "ddim", "evaluations": 2, "replan_every": 2}}
    paths = [
        write(tmp_path, "hopper/medium", seed, {0: score, 5: score + 1}, **more)
        for seed, score, more in (
            (0, 10.0, told()),
            (1, 20.0, told()),
            (1, 30.0, told(width=32)),
            (0, 40.0, told(data="aaaa")),
            (0, 50.0, told(**ddim)),
            (0, 60.0, {}),
        )
    ]
    rows = aggregate(paths)["d4rl"]["tasks"]
    scores = {row["method"]: (row["seeds"], row["score_mean"]) for row in rows}
    assert scores == {
        "small, generator alone, data=1f2e1f2e, generator.width=16": (2, 15.0),
        "small, generator alone, data=1f2e1f2e, generator.width=32": (1, 30.0),
        "small, generator alone, data=aaaaaaaa, generator.width=16": (1, 40.0),
        "small, generator alone, replan_every=2": (1, 50.0),
        "small, generator alone, settings unknown": (1, 60.0),
        "small, 5 refine steps, data=1f2e1f2e, generator.width=16": (2, 16.0),
        "small, 5 refine steps, data=1f2e1f2e, generator.width=32": (1, 31.0),
        "small, 5 refine steps, data=aaaaaaaa, generator.width=16": (1, 41.0),
        "small, 5 refine steps, sampler=ddim, evaluations=2, replan_every=2": (1, 51.0),
        "small, 5 refine steps, settings unknown": (1, 61.0),
    }


def test_what_differs_between_tasks_is_one_method(tmp_path: Path, fake_bootstrap: None) -> None:
    """As the horizon and the data do."""
    other = told(data="bbbb")
    other["settings"]["task"]["horizon"] = 32
    paths = [
        write(tmp_path, task, seed, {5: 1.0}, **more)
        for task, more in (("hopper/medium", told()), ("walker2d/medium", other))
        for seed in (0, 1)
    ]
    (method,) = aggregate(paths)["d4rl"]["methods"]
    assert method["method"] == "small, 5 refine steps"
    assert (method["tasks"], method["seeds"]) == (2, 2)


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(tmp_path: Path) -> None:
    for more, message in (
        ({"training_steps": 200}, "training_steps is 200, but 100 in"),
        ({"target_return": 3600.0}, "target_return is 3600.0, but 3700.0 in"),
    ):
        one = write(tmp_path, "hopper/medium", 0, {5: 1.0})
        other = write(tmp_path, "hopper/medium", 1, {5: 1.0}, **more)
        with pytest.raises(InputError, match=message):
            aggregate([one, other])


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    one = write(tmp_path, "hopper/medium", 0, {5: 1.0})
    again = write(tmp_path, "hopper/medium", 0, {5: 1.0})
    two = [write(tmp_path, "walker2d/medium", seed, {5: 1.0}) for seed in (0, 1)]
    broken = tmp_path / "broken.json"
    broken.write_text('{"task": ')
    unfinished = tmp_path / "unfinished.json"
    unfinished.write_text('{"task": "hopper/medium"}')
    for paths, message in (
        ([one, again], "seed 0 of hopper/medium in Hopper-v5, .*give each seed once"),
        ([one, *two], "hopper/medium in Hopper-v5 has 1 seeds, another task 2"),
        ([broken], "broken.json: not a results.json"),
        ([unfinished], "unfinished.json: not a results.json .*KeyError: 'results'"),
        ([tmp_path / "none.json"], "none.json: not a results.json .*No such file"),
        ([], "no results"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            aggregate(paths)
        assert "\n" not in str(caught.value)


@needs_rliable
def test_interquartile_mean_in_closed_form() -> None:
    scores = np.arange(16, dtype=float).reshape(4, 4)  # the middle half is 4 .. 11
    iqm, (low, high) = interquartile_mean(scores)
    assert iqm == 7.5 and low < 7.5 < high
    assert interquartile_mean(scores) == (iqm, [low, high])  # the same draws every time
    outlier = scores.copy()
    outlier[3, 3] = 1e6
    assert interquartile_mean(outlier)[0] == 7.5
    assert interquartile_mean(np.full((3, 2), 5.0)) == (5.0, [5.0, 5.0])


@needs_rliable
def test_the_bootstrap_is_stratified_by_task() -> None:
    """Tasks that differ widely and seeds that do not leave nothing to doubt."""
    scores = np.array([[10.0, 50.0, 90.0, 130.0]] * 5)
    assert interquartile_mean(scores)[1] == [70.0, 70.0]
    by_hand = []
    rng = np.random.default_rng(0)
    noisy = scores + rng.normal(0, 4, scores.shape)
    for _ in range(2000):
        drawn = np.stack([rng.choice(noisy[:, i], 5) for i in range(4)], 1)
        middle = np.sort(drawn.ravel())[5:15]
        by_hand.append(middle.mean())
    expected = np.percentile(by_hand, [2.5, 97.5])
    np.testing.assert_allclose(interquartile_mean(noisy)[1], expected, atol=0.4)


def test_command_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fake_bootstrap: None,
) -> None:
    paths = [str(write(tmp_path, "hopper/medium", seed, {5: 10.0 * seed})) for seed in range(4)]
    out = tmp_path / "out.json"
    monkeypatch.setattr("sys.argv", ["aggregate.py", "--json", str(out), *paths])
    run_program(program)
    text = capsys.readouterr().out
    assert "15.0 ± 11.2" in text and "interquartile mean of 1 tasks, 4 seeds" in text
    assert json.loads(out.read_text())["d4rl"]["methods"][0]["iqm"] == 15.0
    monkeypatch.setattr("sys.argv", ["aggregate.py", "none.json"])
    with pytest.raises(SystemExit) as ended:
        run_program(program)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: none.json: not a results.json")
