"""One line for each mistake on the command line, naming what is allowed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import hydra.errors
import pytest
from omegaconf import OmegaConf

from tests.checkpoints import untrained_checkpoint
from tests.settings import CONFIGS, composed, raw_composed
from torchrl_td.commands.offline import check_preset, program, several_runs
from torchrl_td.config import check_config, check_read
from torchrl_td.errors import InputError
from torchrl_td.experiment import cli
from torchrl_td.experiment.cli import explain, job, main, stop


def complaint(capsys: pytest.CaptureFixture, *words: str) -> str:
    """What the program says of these words; the composing and checking alone is run."""

    def program() -> None:
        composed(*words)

    with pytest.raises(SystemExit) as ended:
        main(program, CONFIGS)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("task=no", "unknown task 'no'; allowed are "),
        ("task=pointmaze/no", "pointmaze/umaze"),
        ("preset=no", "unknown preset 'no'; allowed are fast, paper, reference, small"),
        ("logger=no", "unknown logger 'no'; allowed are csv, tensorboard, wandb"),
        (
            "algorithm.members=3",
            "algorithm.members is read by algorithm=rcbc_ensemble alone; choose",
        ),
        ("trainig.steps=1", "unknown setting 'trainig'; allowed are algorithm, critic, "),
        ("training.stepz=1", "unknown setting 'training.stepz'; allowed are autocast, "),
        ("+training.stepz=1", "unknown setting 'training.stepz'; allowed are autocast, "),
        ("training.steps=many", "'training.steps'"),
        ("training.steps=0", "training.steps=0; allowed is at least 1"),
        ("planner.sampler=dpm", "planner.sampler='dpm'; allowed are ddpm, ddim"),
        ("seed", "seed"),
        ("training.threads=100000", "training.threads=100000; allowed is from 1 to 1024"),
        ("logger.project=a/b", "logger.project='a/b'; allowed are 1 to 128 characters"),
        ("seed=-1", "seed=-1; allowed is from 0 to 9223372036854775807"),
        ("training.patience=2", "training.patience=2 needs training.evaluate_every"),
        ("planner.candidates=4", "planner.candidates=4 needs critic.enabled=true"),
        ("task.horizon=1", "task.horizon=1; allowed is from 2 to 4096"),
        ("=5", "is not of the form key=value"),
        ("logger=null", "unknown logger 'null'; allowed are csv, tensorboard, wandb"),
        ("logger=", "unknown logger ''; allowed are csv, tensorboard, wandb"),
        ("output_dir=~/x", "quote what it holds, as in 'output_dir=\"~/runs\"'"),
        ("output_dir=runs/v1.0=x", "quote what it holds, as in 'output_dir=\"~/runs\"'"),
        ("task.env_kwargs={a: 1}", "do not give these entries of 'task.env_kwargs'; add it with"),
        ("training.steps=???", "settings without a value: training.steps"),
    ],
)
def test_wrong_words(
    word: str, says: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["td-offline", word])
    assert says in complaint(capsys, word)


def test_a_setting_taken_out_is_refused() -> None:
    """Its default is another than the files say; an entry of a free form may go."""
    config = composed()
    for word in ("~training.steps", "~evaluation", "~logger=csv"):
        with pytest.raises(InputError, match=f"^{word} leaves [a-z.]+ without a value; give"):
            check_read(config, [word])
    check_read(config, ["~task.env_kwargs.reset_target", "~task.reset_options"])


def test_options_that_do_not_go_together_are_one_line(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["td-offline", "seed=0", "--cfg", "job", "-m"])
    with pytest.raises(SystemExit) as ended:
        main(program, CONFIGS)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: Only one of --run, --multirun, --cfg")


def test_a_preset_of_ones_own_names_itself(own_preset: Path) -> None:
    """Under another's name its runs went to the other's folder, and among the other's results."""
    own_preset.write_text("# @package _global_\ndefaults: [strided, _self_]\n")
    words = ["-cd", str(own_preset.parents[1]), "-m", "preset=mine", "seed=0,1"]
    program = [sys.executable, str(CONFIGS.parent / "examples" / "td_offline.py"), *words]
    done = subprocess.run(program, cwd=own_preset.parent, capture_output=True, text=True)
    assert done.returncode == 2 and "the preset 'strided'; give its own the" in done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# @package _global_\nseed: 3\n", "the files composed name no preset; .* preset: mine"),
        ("preset: mine\n", r"takes one value, not several .*begins with '# @package _global_'"),
    ],
)
def test_what_a_preset_of_ones_own_lacks_is_named(text: str, says: str, own_preset: Path) -> None:
    own_preset.write_text(text)
    search = f"hydra.searchpath=[file://{own_preset.parents[1]}]"
    config = raw_composed(search, "preset=mine")
    with pytest.raises(InputError, match=says):
        check_preset(config, "mine")
        check_config(config)


@pytest.fixture
def own_preset(tmp_path: Path) -> Path:
    """The file of a preset, to be written, in a folder for --config-dir."""
    (tmp_path / "preset").mkdir()
    return tmp_path / "preset" / "mine.yaml"


def test_a_pickle_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["td-offline", "--experimental-rerun", "config.pickle"])
    with pytest.raises(InputError, match="reads a pickle"):
        program()


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "seed=0,1", "output_dir=x"],
        ["output_dir=x", "seed=0,1", "--multirun"],
        ["-m", "seed=range(3)", "++output_dir=x"],
        ["-m", "seed=0,1", "training.steps=2,3"],
        ["hydra.mode=MULTIRUN", "training.steps=shuffle(range(1,3))"],
        ["-m", "preset=small,fast", "algorithm=bc"],  # whose folders have no preset in their names
        ["-m", "algorithm=bc,iql", "output_dir=runs/${task.name}-seed${seed}"],
    ],
)
def test_one_folder_for_several_runs_is_refused_before_the_first(words: list[str]) -> None:
    """The first alone got it, and the second failed when the first was done."""
    with pytest.raises(InputError, match="would be the folder of several runs; name what") as said:
        several_runs(words)
    advice = re.search(r"'(output_dir=[^']*)'", str(said.value))
    assert advice is not None
    several_runs([*(word for word in words if "output_dir" not in word), advice[1]])


@pytest.mark.parametrize(
    "words",
    [
        ["output_dir=x"],
        ["-m", "task=pointmaze/umaze,pointmaze/medium", "seed=0,1,2"],
        ["-m", "algorithm=bc", "algorithm.hidden_dims=[8,8]", "output_dir=x"],  # by a launcher
        ["-m", "seed=0,1", "output_dir=runs/s${seed}"],
        ["-m", "seed=0,1", "task.reset_options={a:{b:1,c:2},d:3}"],
        ["-m", "seed=0", "output_dir=a,b"],
        ["-m", "training.steps=10,20", "output_dir=runs/${hydra:job.num}"],
        ["-m", "training.steps=10,20", "output_dir=runs/${training.decay_steps}"],
        ["-m", "hydra.sweep.dir=a,b"],
    ],
)
def test_runs_with_folders_of_their_own_are_let_through(words: list[str]) -> None:
    several_runs(words)


def test_several_runs_are_continued_in_their_folders(tmp_path: Path) -> None:
    for name in "ab":
        untrained_checkpoint(tmp_path / name)
    several_runs(["-m", f"resume={tmp_path}/a,{tmp_path}/b", "training.steps=16"])


def test_units_of_weights_that_there_are_none_of_are_refused() -> None:
    """By words, and not in what a checkpoint of before holds."""
    config = composed("init_normalizer=fit")
    with pytest.raises(InputError, match="init_normalizer=fit is of weights to start from; give"):
        check_read(config, ["init_normalizer=fit"])
    check_read(config, [])


def test_hydras_own_settings_are_left_to_hydra() -> None:
    says = "Could not override 'hydra.launcher.n_jobs'.\nKey 'n_jobs' is not in struct"
    assert explain(says) == " ".join(says.split())


def test_other_messages_of_hydra_come_in_one_line() -> None:
    assert explain("first\n  second\n") == "first second"


def test_a_jobs_mistake_does_not_stop_the_next(capsys: pytest.CaptureFixture) -> None:
    done: list[int] = []

    @job
    def one(number: int) -> None:
        if number == 1:
            raise InputError("bad")
        done.append(number)

    def program() -> None:
        for number in range(3):
            one(number)

    with pytest.raises(SystemExit) as ended:
        main(program)
    assert ended.value.code == 2 and done == [0, 2]
    assert capsys.readouterr().err == "error: bad\n"


def test_a_jobs_mistake_in_another_process_goes_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As launchers call it: with no program of ours around it, and its output in a file."""
    monkeypatch.setattr(cli, "_programs", [os.getpid() + 1])

    @job
    def one(number: int) -> None:
        raise InputError("bad")

    with pytest.raises(InputError, match="bad"):
        one(1)
    assert capsys.readouterr().err == "error: bad\n"  # where the program may have ended before


class SubmititError(RuntimeError):
    """Stands for the errors of submitit, which is no dependency."""

    __module__ = "submitit.core.utils"


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (
            "sbatch: error: invalid partition specified: no\nsbatch: error: Batch job failed",
            "sbatch: error: invalid partition specified: no sbatch: error: Batch job failed",
        ),
        (
            "Job 7 with path /7.pkl\nhas not produced any output (state: CANCELLED)\n"
            "Error stream produced:\n----------\nhow\nit ended",
            "Job 7 with path /7.pkl has not produced any output (state: CANCELLED)",
        ),
    ],
)
def test_a_job_that_slurm_refused_or_ended(
    message: str, says: str, capsys: pytest.CaptureFixture
) -> None:
    def program() -> None:
        raise SubmititError(message)

    with pytest.raises(SystemExit) as ended:
        main(program)
    assert ended.value.code == 2 and capsys.readouterr().err == f"error: {says}\n"


def test_a_fault_of_ours_in_a_job_keeps_its_traceback() -> None:
    def program() -> None:
        raise SubmititError("Job failed during processing with trace:\n-----\nTraceback\na bug")

    with pytest.raises(SubmititError, match="a bug"):
        main(program)


def test_a_launcher_hears_the_signal_after_the_checkpoint() -> None:
    """Else submitit would not put the job back into the queue."""
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(SystemExit) as ended:
            stop(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert heard == [signal.SIGUSR2] and ended.value.code == 128 + signal.SIGUSR2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_that_nobody_else_hears_ends_with_the_shells_status(number: int) -> None:
    with pytest.raises(SystemExit) as ended:
        stop(number)
    assert ended.value.code == 128 + number


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    def program() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        main(program)


def test_interrupted(capsys: pytest.CaptureFixture) -> None:
    def program() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        main(program)
    assert ended.value.code == 130 and capsys.readouterr().err == "error: interrupted\n"


def test_hydra_composition_errors_are_caught(capsys: pytest.CaptureFixture) -> None:
    def program() -> None:
        raise hydra.errors.HydraException("one\ntwo")

    with pytest.raises(SystemExit):
        main(program)
    assert capsys.readouterr().err == "error: one two\n"


def test_a_file_that_is_no_yaml_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "my_task.yaml"
    file.write_text("task:\n  name: [mine\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        main(lambda: OmegaConf.load(file))
    error = capsys.readouterr().err
    assert (
        error.startswith("error: ") and f'in "{file}", line 2' in error and error.count("\n") == 1
    )


def test_a_setting_that_the_files_do_not_give() -> None:
    said = explain("Could not override 'task.scored'.\nTo append to your config use +task.scored")
    assert said.endswith("'task.scored'; add it with a plus: +task.scored=<value>")
