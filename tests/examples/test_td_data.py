"""The data example, as a user runs it."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded

from torchrl_td import TDPlannerActor
from torchrl_td.checkpoint import describe, described_action, save_checkpoint
from torchrl_td.checkpoint.build import build_model
from torchrl_td.commands.data import main
from torchrl_td.config import (
    Config,
    DatasetConfig,
    EvaluationConfig,
    GeneratorConfig,
    RefinerConfig,
    TaskConfig,
)
from torchrl_td.data import Normalizer, load_episodes
from torchrl_td.modules.trajectory_diffuser import Scales

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "td_data.py"


@pytest.fixture(scope="module")
def pendulum() -> str:
    command = ["record", "Pendulum-v1", "--dataset", "test/example-v0", "--steps", "400"]
    main(command)
    return "minari:test/example-v0"


def test_record_then_describe(
    pendulum: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, numbers = tmp_path / "look.png", tmp_path / "look.json"
    files = ["--picture", str(picture), "--json", str(numbers)]
    references = ["--ref-min", "-1600", "--ref-max", "-150"]
    main(["describe", pendulum, *files, *references])
    found = json.loads(numbers.read_text(encoding="utf-8"))
    assert (found["transitions"], found["episodes"], found["truncations"]) == (400, 2, 2)
    assert found["environment"] == "Pendulum-v1" and -100 < found["score"]["mean"] < 100
    out = capsys.readouterr().out
    assert "0 terminations, 2 truncations" in out
    assert f"{found['return']['mean']:.6g}" in out
    # Pendulum's bounds are -2 and 2, kept with the data: nothing lies outside of them.
    assert "warning" not in out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_maze_is_recorded_and_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    for what in ("maze2d/umaze", "pointmaze/umaze"):
        main(["record", what, "--steps", "400", "--seed", "2"])
        with pytest.raises(SystemExit, match="2"):  # not twice
            main(["record", what])
        assert "--overwrite" in capsys.readouterr().err
    main(["describe", "minari:maze2d/umaze-v0"])
    out = capsys.readouterr().out
    assert "observation, 4 numbers" in out and "600" in out and "PointMaze_UMaze-v3" in out
    keys = ["--observation-keys", "achieved_goal", "observation", "desired_goal"]
    main(["describe", "minari:pointmaze/umaze-v0", *keys])
    out = capsys.readouterr().out
    assert "observation, 8 numbers" in out and "repeats itself in dimension 2 (of 0)" in out


def test_damaged_data_is_described_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, picture, numbers = (tmp_path / name for name in ("a.hdf5", "a.png", "a.json"))
    reward = np.ones(12, np.float32)
    reward[[2, 7]] = np.nan  # an episode each: no return is known
    with h5py.File(path, "w") as file:
        file["observations"] = np.arange(24, dtype=np.float32).reshape(12, 2)
        file["actions"] = np.full((12, 1), 1.5, np.float32)  # beyond the bounds
        file["rewards"] = reward
        file["terminals"] = np.arange(12) % 6 == 5
    files = ["--picture", str(picture), "--json", str(numbers)]
    with pytest.raises(SystemExit):
        main(["describe", f"d4rl:{path}", *files, "--write-task", str(tmp_path / "bad.yaml")])
    out, error = capsys.readouterr()
    assert "no task is made of data that cannot be trained on" in error.splitlines()[-1]
    assert not (tmp_path / "task").exists()
    assert "warning: reward holds NaN or Inf in 2 of 12 steps, first in row 2 (episode 0)" in out
    assert "warning: 100 % of the actions lie outside [-1, 1], first in row 0" in out
    assert "warning: action is constant in dimension 0" in out
    assert out.splitlines()[5].split(None, 1) == ["return", "no finite number"]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads(numbers.read_text(encoding="utf-8"), parse_constant=refuse)
    assert found["return"] is None and found["transitions"] == 12 and len(found["warnings"]) >= 3
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("describe", "minari:test/absent-v0"), "minari:test/absent-v0"),
        (("describe", "nothing"), "nothing"),
        (("describe", "{pendulum}", "--ref-min", "3"), "--ref-max"),
        (("describe", "{pendulum}", "--picture", "{tmp}/no/such.png"), "there is no folder"),
        (("describe", "{pendulum}", "--json", "{tmp}"), "is a folder; name a file"),
        (("describe", "{pendulum}", "--json", "/proc/none.json"), "cannot write /proc/none.json"),
        (("describe", "{pendulum}", "--ref-min", "nan", "--ref-max", "3"), "--ref-max"),
        (("describe", "{pendulum}", "--max-episode-steps", "0"), "--max-episode-steps 0: allowed"),
        (("describe", "some/door.hdf5"), "given as 'd4rl:some/door.hdf5'"),
        (("record", "Pendulum-v1"), "--dataset"),
        (("record", "Pendulum-v1", "--dataset", "a/b-v0", "--seed", "-1"), "a seed from 0 to"),
        (("record", "maze2d/umaze", "--seed", "-1"), "a seed from 0 to"),
        (("record", "Nothing-v0", "--dataset", "test/x-v0"), "Nothing-v0"),
        (("record", "Pendulum-v1", "--dataset", "x"), "<namespace>/<name>-v<number>"),
        (("record", "Pendulum-v1", "--dataset", "test/example-v0"), "exists"),
        (("record", "pointmaze/umaze", "--steps", "0"), "steps >= 1"),
        (("record", "pointmaze/umaze", "--dataset", "my/maze-v0"), "leave out --dataset"),
        (
            ("record", "Pendulum-v1", "--dataset", "a/b-v0", "--checkpoint", "c"),
            "no checkpoint at c",
        ),
        (("record", "--dataset", "a/b-v0"), "name what to record"),
        (("record", "Pendulum-v1", "--dataset", "aa/b-v0", "--sample"), "--sample is a planner's"),
        (
            ("record", "Pendulum-v1", "--dataset", "aa/b-v0", "--target-return", "0"),
            "--target-return is a planner's",
        ),
        (("record", "Pendulum-v1", "--dataset", "aa/b-v0", "--workers", "2"), "out --workers"),
        (("record", "pointmaze/umaze", "--noise", "3"), "leave out --noise"),
        (("record", "maze2d/umaze", "--workers", "3"), "leave out --workers"),
        (("record", "maze2d/giant"), "allowed are maze2d/umaze, maze2d/medium, maze2d/large"),
    ],
)
def test_mistakes_are_one_line(
    pendulum: str,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([a.format(pendulum=pendulum, tmp=tmp_path) for a in arguments])
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0] and lines[-1] == errors[0]


def test_a_step_limit_stands_for_timeouts_that_a_file_does_not_mark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = np.random.default_rng(0).random((40, 2), np.float32)
        file["actions"] = np.random.default_rng(1).random((40, 1), np.float32)
        file["rewards"] = np.ones(40, np.float32)
        file["terminals"] = np.zeros(40, bool)
    task = tmp_path / "mine.yaml"
    words = ["--max-episode-steps", "10", "--write-task", str(task)]
    main(["describe", f"d4rl:{path}", *words])
    assert "episodes" in (out := capsys.readouterr().out) and "40" in out
    written = (tmp_path / "task" / "mine.yaml").read_text(encoding="utf-8")
    assert "40 steps in 4 episodes" in written and "max_episode_steps: 10 " in written


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """An untrained planner for Pendulum, saved as a run saves its own."""
    config = Config(
        preset="small",
        task=TaskConfig(name="pendulum", env="Pendulum-v1", horizon=8),
        dataset=DatasetConfig(source="none"),
        generator=GeneratorConfig(width=16, layers=1, heads=2),
        refiner=RefinerConfig(channels=8, multipliers=[1, 2]),
        evaluation=EvaluationConfig(target_return=-300.0),
    )
    normalizer = Normalizer(torch.zeros(3), torch.ones(3), 100.0)
    model = build_model(config, 3, 1, normalizer, Scales.empty(8, 3))
    bounds = torch.tensor([2.0])
    numbers = ("return_mean", "return_best", "score_mean", "score_best")
    dataset = {"source": "none", "hash": "none", "transitions": 1, **dict.fromkeys(numbers, 0.0)}
    about = describe(config, 1, 3, described_action(Bounded(-bounds, bounds)), dataset)
    return save_checkpoint(tmp_path, 1, about, model.state_dict(), {})


def test_a_planner_records_what_its_actor_does(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    forward = TDPlannerActor.forward

    def spy(self: TDPlannerActor, tensordict: TensorDict) -> TensorDict:
        seen.append(tensordict.clone())
        out = forward(self, tensordict)
        seen[-1]["action"] = out["action"].clone()
        seen[-1]["after"] = out["next", "planner"].clone()
        return out

    monkeypatch.setattr(TDPlannerActor, "forward", spy)
    command = ["record", "Pendulum-v1", "--dataset", "test/planned-v0", "--steps", "20"]
    extra = ["--max-episode-steps", "10", "--checkpoint", str(checkpoint), "--seed", "3"]
    main([*command, *extra])
    data = load_episodes("minari:test/planned-v0")
    assert torch.equal(data["action"], torch.cat([call["action"] for call in seen]))
    assert torch.equal(data["observation"], torch.cat([call["observation"] for call in seen]))
    reward = data["next", "reward"].flatten().numpy()
    for number, call in enumerate(seen):
        first = number % 10 == 0
        assert bool(call["is_init"]) == first
        # The target counts down by what was paid; the planner's state goes from step to step.
        paid = reward[number - number % 10 : number].sum()
        assert np.isclose(float(call["target_return"]), -300.0 - paid, rtol=1e-5)
        before = seen[number - 1]["after"]
        assert first or all(torch.equal(call["planner"][k], before[k]) for k in before.keys())


def test_a_planner_records_its_own_environment_with_noise(checkpoint: Path) -> None:
    """The plans', the actions', or both; and says with what."""
    command = [
        "record",
        "--checkpoint",
        str(checkpoint),
        "--steps",
        "6",
        "--max-episode-steps",
        "6",
    ]
    found = {}
    for name, extra in (("plain", []), ("noisy", ["--noise", "0.2"]), ("sampled", ["--sample"])):
        for again in ("a", "b"):
            dataset = f"test/{name}-{again}-v0"
            main([*command, "--dataset", dataset, *extra])
            found[name, again] = load_episodes(f"minari:{dataset}")["action"]
        assert torch.equal(found[name, "a"], found[name, "b"])  # of the same seed
    plain = found["plain", "a"]
    assert 0.01 < (found["noisy", "a"] - plain)[0].abs() < 2  # of actions from -2 to 2
    assert not torch.equal(found["sampled", "a"][0], plain[0])
    metadata = minari.load_dataset("test/noisy-a-v0").storage.metadata
    told = json.loads(metadata["provenance"])
    assert told["checkpoint"] == str(checkpoint) and told["step"] == 1
    assert (told["action_noise"], told["sampled"], told["target_return"]) == (0.2, False, -300.0)
    assert told["trained_on"] == {"source": "none", "hash": "none"}
    assert minari.load_dataset("test/noisy-a-v0").env_spec.id == "Pendulum-v1"


def test_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "describe", "nothing"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
