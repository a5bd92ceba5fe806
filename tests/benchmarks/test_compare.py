"""compare.py on runs of seconds: what is missing is made, what is done is left as it is."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hydra.core.plugins import Plugins

from benchmarks import compare as script
from benchmarks.compare import compare, read_words
from tests.baselines.test_baselines import RUN
from torchrl_td.commands.offline import OwnConfigsFirst, own_configs
from torchrl_td.config import CONFIGS, check_read
from torchrl_td.config.limits import ALGORITHMS
from torchrl_td.errors import InputError
from torchrl_td.experiment.run import run


@pytest.fixture
def words(tiny_pointmaze: str, tmp_path: Path) -> list[str]:
    folders = [f"runs={tmp_path / 'runs'}", f"results={tmp_path / 'results'}"]
    asked = ["tasks=pointmaze/umaze", "algorithms=bc,controller", "seeds=0,1"]
    settings = [w for w in RUN if not w.startswith("progress")]
    return [*asked, *folders, f"dataset.source={tiny_pointmaze}", *settings]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs in this process, for a new one takes seconds to start; names what was run."""
    made: list[str] = []

    def train(asked: Any, folder: Path) -> str:
        made.append(f"{asked.algorithm}{asked.seed}")
        config = asked.config()
        config.output_dir, config.resume, config.progress = str(folder), "auto", False
        run(config)
        return ""

    monkeypatch.setattr(script, "train", train)
    return made


def test_runs_what_is_missing_and_repeats_nothing(
    words: list[str], in_process: list[str], tmp_path: Path
) -> None:
    text = compare(read_words(words))
    assert in_process == ["bc0", "bc1"]
    assert "| bc | " in text and "| controller | " in text and "2 × 2" in text
    folder = tmp_path / "results"
    assert (folder / "comparison.md").read_text() == text
    assert (folder / "comparison.png").exists()
    kept = json.loads((folder / "pointmaze/umaze/bc-seed0.json").read_text())
    assert len(kept["results"][0]["returns"]) == 2 and kept["machine"]["cores"] > 0

    assert compare(read_words([*words, "run=false"])) == text
    (folder / "pointmaze/umaze/bc-seed1.json").unlink()  # its run is done all the same
    compare(read_words(words))
    assert in_process == ["bc0", "bc1"]

    with pytest.raises(InputError, match=r"bc-seed0\.json was made with algorithm\.hidden_dims="):
        compare(read_words([*words, "algorithm.hidden_dims=[16]"]))
    given = [w for w in words if not w.startswith("dataset.source")]
    for other in ([*given, "dataset.source=minari:of/another-v0"], words):
        with pytest.raises(
            InputError, match=r"bc-seed0\.json was made with (dataset\.source|seed)="
        ):
            compare(read_words(other))
        (folder / "pointmaze/umaze/bc-seed0.json").write_text(json.dumps(kept | {"seed": 7}))
    (folder / "pointmaze/umaze/bc-seed0.json").write_text("{")
    with pytest.raises(InputError, match=r"bc-seed0\.json: not a whole result"):
        compare(read_words(words))


def test_a_finished_run_is_played_again_not_trained_again(
    words: list[str], in_process: list[str], tmp_path: Path
) -> None:
    words = [w for w in words if not w.startswith("algorithms")] + ["algorithms=rcbc"]
    words = [w.replace("seeds=0,1", "seeds=0") for w in words]
    file = tmp_path / "results/pointmaze/umaze/rcbc-seed0.json"
    compare(read_words(words))
    before = json.loads(file.read_text())
    file.unlink()
    other = [*words, "evaluation.target_return=5", "evaluation.seed=50"]
    compare(read_words(other))
    after = json.loads(file.read_text())
    assert in_process == ["rcbc0"]
    assert after["target_return"] == 5 and after["settings"]["evaluation"]["seed"] == 50
    assert after["training_seconds"] == before["training_seconds"]
    config = script.Asked("pointmaze/umaze", "rcbc", 0, read_words(other).words).config()
    config.output_dir, config.progress = str(tmp_path / "anew"), False
    anew = run(config)
    assert [r["returns"] for r in after["results"]] == [r["returns"] for r in anew["results"]]
    assert list(after["curves"]) == ["rcbc"] == list(before["curves"])
    file.unlink()
    with pytest.raises(InputError, match=r"results\.json was made with algorithm\.hidden_dims="):
        compare(read_words([*words, "algorithm.hidden_dims=[16]"]))
    assert in_process == ["rcbc0"] and not file.exists()


def test_a_run_that_was_trained_on_is_not_played_as_what_it_was(
    words: list[str], in_process: list[str], tmp_path: Path
) -> None:
    """Its newest checkpoint was played, and the score filed under the steps of before."""
    words = [w for w in words if not w.startswith(("algorithms", "seeds"))]
    words += ["algorithms=rcbc", "seeds=0"]
    compare(read_words(words))
    shutil.rmtree(tmp_path / "results")
    folder = tmp_path / "runs/pointmaze/umaze/rcbc-seed0"
    config = script.Asked("pointmaze/umaze", "rcbc", 0, read_words(words).words).config()
    config.resume, config.progress = str(folder), False
    config.training.steps, config.training.stop_after = 40, 9
    run(config, [f"resume={folder}", "training.steps=40", "training.stop_after=9"])
    with pytest.raises(
        InputError, match=r"results of step 6, .* whole checkpoint is of step 9; go"
    ):
        compare(read_words([*words, "evaluation.target_return=5"]))
    assert not (tmp_path / "results/pointmaze/umaze/rcbc-seed0.json").exists()


def test_cloning_is_asked_for_no_return(
    words: list[str], in_process: list[str], tmp_path: Path
) -> None:
    words = [w for w in words if not w.startswith("algorithms")] + ["algorithms=bc"]
    text = compare(read_words(words))
    assert compare(read_words([*words, "evaluation.target_return=5"])) == text
    (tmp_path / "results/pointmaze/umaze/bc-seed1.json").unlink()
    assert compare(read_words([*words, "evaluation.target_return=5"])) == text
    assert in_process == ["bc0", "bc1"]


def test_a_run_that_was_cut_off_is_resumed(
    words: list[str], in_process: list[str], tmp_path: Path
) -> None:
    words = [w for w in words if not w.startswith("algorithms")] + ["algorithms=rcbc"]
    folder = tmp_path / "runs/pointmaze/umaze/rcbc-seed0"
    asked = script.Asked("pointmaze/umaze", "rcbc", 0, read_words(words).words)
    config = asked.config()
    config.output_dir, config.progress, config.training.stop_after = str(folder), False, 4
    run(config)
    compare(read_words(words))
    starts = json.loads((folder / "run.json").read_text())["starts"]
    assert len(starts) == 2


def test_words(words: list[str]) -> None:
    options = read_words(["tasks=a,b", "algorithms=bc", "jobs=2", "training.steps=3", "run=False"])
    assert (options.tasks, options.seeds, options.jobs) == (["a", "b"], [0, 1, 2], 2)
    assert options.words == ("training.steps=3",) and not options.run
    for wrong, message in (
        (["tasks=a"], "which algorithms"),
        (["algorithms=bc"], "which tasks"),
        (["tasks=a", "algorithms=bc", "seeds=x"], "seeds=x; allowed are whole numbers"),
        (["tasks=a", "algorithms=bc", "seeds=²"], "seeds=²; allowed are whole numbers"),
        (["tasks=a", "algorithms=bc", "run=no"], "run=no; allowed are run=true and run=false"),
        (["tasks=a", "algorithms=bc", "jobs=00"], "jobs=00; allowed are whole numbers"),
        (["tasks=a", "algorithms=bc", "jobs=1,2"], "jobs=1,2; allowed are whole numbers"),
        (["tasks=a", "algorithms=bc", "seeds"], "'seeds' is not of the form"),
        (["tasks=a", "algorithms=bc", "seed=5"], "seed=5; .* give seeds=0,1,2"),
        (["tasks=a", "algorithms=bc", "++seed=5"], "seed=5; .* give seeds=0,1,2"),
    ):
        with pytest.raises(InputError, match=message):
            read_words(wrong)
    for name, message in (
        ("tasks=none", "unknown task 'none'"),
        ("algorithms=ppo", "unknown algo"),
    ):
        key = name.split("=")[0]
        given = [w for w in words if not w.startswith(key)]
        with pytest.raises(InputError, match=message):
            compare(read_words([*given, name]))


def test_a_setting_that_one_of_them_does_not_read_is_refused_before_any_runs(
    words: list[str], in_process: list[str]
) -> None:
    given = [*words, "algorithms=trajectory_diffuser,bc", "planner.refine_steps=2"]
    given = [w for w in given if w != "algorithms=bc,controller"]
    with pytest.raises(InputError, match=r"algorithm=bc does not read planner\.refine_steps"):
        compare(read_words(given))
    assert not in_process


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_reads_what_it_is_given(algorithm: str) -> None:
    asked = script.Asked("pointmaze/umaze", algorithm, 0, ())
    check_read(asked.config(), asked.overrides())


def test_what_is_asked_for_twice_is_made_once(words: list[str], in_process: list[str]) -> None:
    given = [w.replace("seeds=0,1", "seeds=0,0") for w in words]
    assert "1 × 2" in compare(read_words([*given, "jobs=2"]))
    assert in_process == ["bc0"]


@pytest.mark.parametrize("key", ["runs", "results"])
def test_a_folder_that_cannot_be_written_to_is_refused_before_any_runs(
    key: str, words: list[str], in_process: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"cannot write to {tmp_path}/file/x: Not a directory"):
        compare(read_words([*words, f"{key}={tmp_path}/file/x"]))
    assert not in_process


def test_two_files_of_one_task_name_are_no_more_seeds(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task/copied.yaml").write_text((CONFIGS / "task/pointmaze/umaze.yaml").read_text())
    monkeypatch.setattr("sys.argv", ["compare.py", "--config-dir", str(tmp_path)])
    Plugins.instance().register(OwnConfigsFirst)
    given = [w.replace("tasks=pointmaze/umaze", "tasks=pointmaze/umaze,copied") for w in words]
    with pytest.raises(InputError, match=r"pointmaze/umaze,copied have one task\.name"):
        compare(read_words(given))


@pytest.fixture
def training(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A training by a program of these lines in place of td_offline.py."""

    def train(lines: str) -> str:
        (tmp_path / "examples").mkdir()
        (tmp_path / "examples/td_offline.py").write_text(lines)
        monkeypatch.setattr(script, "ROOT", tmp_path)
        options = read_words([*words, "run=true"])
        return script.train(script.Asked("pointmaze/umaze", "bc", 0, options.words), options.runs)

    return train


def test_told_to_end_it_ends_what_it_started(training: Any) -> None:
    """It went on alone, and the same words found its folder taken."""
    with ThreadPoolExecutor(1) as pool:
        said = pool.submit(training, "import time; time.sleep(100)")
        while not script._trainings:
            time.sleep(0.01)
        with pytest.raises(SystemExit, match="143"):
            script.end_trainings(15, None)
        assert "seed 0: killed by SIGTERM; the same words again go on" in said.result(60)
    assert not script._trainings


def test_a_killed_run_is_said_to_be(training: Any) -> None:
    said = training("import os; os.write(2, b'a warning'); os.kill(os.getpid(), 9)")
    assert said.endswith(
        "seed 0: killed by SIGKILL; the same words again go on from its last checkpoint"
    )


def test_a_controller_of_other_episodes_is_refused(words: list[str]) -> None:
    """It stood in the table of what was asked for."""
    given = [*words, "algorithms=controller"]
    compare(read_words(given))
    for word, before in (("evaluation.episodes=3", 2), ("task.max_episode_steps=20", r"\d+")):
        setting, _, asked = word.partition("=")
        with pytest.raises(InputError, match=rf"with {setting}={before}, asked is {asked};"):
            compare(read_words([*given, word]))


def test_weights_to_start_from_are_those_asked_for(
    words: list[str], in_process: list[str], tmp_path: Path
) -> None:
    """What had started from others was taken for the same."""
    compare(read_words([*words, "algorithms=bc"]))
    first, second = (tmp_path / "runs/pointmaze/umaze" / f"bc-seed{seed}" for seed in (0, 1))
    given = [*words, "algorithms=bc", "seeds=0", f"results={tmp_path / 'on'}"]
    given += [f"runs={tmp_path / 'on'}"]
    compare(read_words([*given, f"init_from={first}"]))
    assert in_process == ["bc0", "bc1", "bc0"]
    for word in (f"init_from={second}", "init_from=null"):
        with pytest.raises(InputError, match=rf"made with init_from={first}, asked is "):
            compare(read_words([*given, word]))


_WARNS = """
from torchrl import torchrl_logger
from torchrl_td.experiment.streams import prepare_streams
prepare_streams()
torchrl_logger.info("step 5")
torchrl_logger.warning("it diverges")
"""


@pytest.mark.slow
def test_what_a_run_warns_of_is_heard(training: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A value that had diverged was to be seen in its score alone."""
    training(_WARNS)
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.endswith("WARNING it diverges")]
    assert said[-1].startswith("pointmaze/umaze, bc, seed 0: ") and len(said) == 2


def test_nothing_played_is_nothing_to_compare(words: list[str], in_process: list[str]) -> None:
    given = [w for w in words if not w.startswith("evaluation.episodes")]
    with pytest.raises(InputError, match="=0 leaves nothing to compare"):
        compare(read_words([*given, "evaluation.episodes=0"]))
    assert not in_process


def test_seeds_that_lost_patience_at_different_steps_are_compared(
    words: list[str], in_process: list[str], tmp_path: Path
) -> None:
    given = [*words, "algorithms=bc", "training.evaluate_every=2", "training.patience=1"]
    compare(read_words(given))
    file = tmp_path / "results" / "pointmaze/umaze/bc-seed1.json"
    kept = json.loads(file.read_text())
    file.write_text(json.dumps(kept | {"training_steps": kept["training_steps"] - 1}))
    assert "2 × 2" in compare(read_words(given))


def test_a_failed_run_is_named(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "train", lambda asked, _: f"{asked.algorithm}: out of luck")
    with pytest.raises(InputError, match="2 of 3 runs failed: bc: out of luck"):
        compare(read_words(words))


@pytest.mark.slow
def test_in_processes_of_their_own(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task of one's own is found by the program and by its runs."""
    (tmp_path / "task").mkdir()
    own = (CONFIGS / "task/pointmaze/umaze.yaml").read_text().replace("pointmaze/umaze", "own")
    (tmp_path / "task/mine.yaml").write_text(own)
    words = ["--config-dir", str(tmp_path), *words, "tasks=mine", "jobs=2"]
    monkeypatch.setattr("sys.argv", ["compare.py", *words])
    Plugins.instance().register(OwnConfigsFirst)
    text = compare(read_words(own_configs()[1]))
    assert "2 × 2" in text and (tmp_path / "results/mine/bc-seed1.json").exists()
