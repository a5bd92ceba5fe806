"""The planner and its baselines on the same tasks: runs what is missing, tables and plots all.

    python benchmarks/compare.py tasks=pointmaze/umaze algorithms=trajectory_diffuser,rcbc,iql
    python benchmarks/compare.py tasks=... algorithms=... seeds=0,1 training.evaluate_every=500
    python benchmarks/compare.py tasks=... algorithms=... results=FOLDER run=false

Every run is one of examples/td_offline.py in its folder under ``runs=`` (outputs/compare): one that
was cut off is resumed, one that is done is not repeated. If it is to be asked for another return,
to plan otherwise or to start elsewhere, its checkpoint is played again. What it came to goes to one
JSON file under ``results=`` (outputs/compare, too), with the return of every episode;
``comparison.md`` and ``comparison.png`` there are written anew from the files that were asked for.
Files made with other data, versions, settings or episodes are never averaged with the rest: the
first is named, and the program ends. Beside ``seeds=`` (0,1,2), ``jobs=`` (runs side by side, 1)
and ``--config-dir FOLDER``, where tasks of one's own are, other words are settings of td_offline.py
for all runs.

``controller`` among the algorithms is the scripted controller at full skill, on PointMaze.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import NoReturn

from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins

from torchrl_td.commands.offline import OwnConfigsFirst, own_configs
from torchrl_td.commands.usage import help_asked
from torchrl_td.comparison.asked import check_asked, check_controller_asked
from torchrl_td.comparison.collecting import collect
from torchrl_td.comparison.controller import play_controller
from torchrl_td.comparison.data import ensure_recorded
from torchrl_td.comparison.plots import plot_comparison
from torchrl_td.comparison.replay import only_played_otherwise, play_again
from torchrl_td.comparison.results import check_comparable, read_result
from torchrl_td.comparison.tables import markdown
from torchrl_td.config import CONFIGS, Config, check_config, check_read, setting_of, word_by_word
from torchrl_td.errors import InputError
from torchrl_td.experiment.cli import explain
from torchrl_td.experiment.cli import main as run_program
from torchrl_td.experiment.run_folder import write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
CONTROLLER = "controller"
# Settings of td_offline.py that the program gives to its runs, and by which words.
_OURS = {
    "task": "give tasks=",
    "algorithm": "give algorithms=",
    "seed": "give seeds=0,1,2",
    "output_dir": "give runs=FOLDER",
    "resume": "what was cut off is resumed, anyway",
}
_WARNING = re.compile(r"\S+ \S+ WARNING ")  # a run's, logged on stdout without a terminal
_trainings: set[subprocess.Popen[str]] = set()  # that run
_PLAYING = Lock()  # an evaluation seeds the process' random numbers: one at a time


@dataclass(frozen=True)
class Asked:
    """One result that is asked for."""

    task: str
    algorithm: str
    seed: int
    words: tuple[str, ...]
    """Settings of td_offline.py beside these."""

    def names(self, setting: str) -> bool:
        """Whether a word gives this setting."""
        return setting in {setting_of(word) for word in word_by_word(self.words)}

    def overrides(self) -> list[str]:
        """As td_offline.py takes them."""
        none = ("evaluation.baseline=null",) if self.algorithm == "trajectory_diffuser" else ()
        named = (f"task={self.task}", f"algorithm={self.algorithm}", f"seed={self.seed}")
        return [*named, *none, *self.words]

    def config(self) -> Config:
        """The checked settings.

        Raises:
            InputError: a word is wrong.
        """
        overrides = self.overrides()
        if self.algorithm == CONTROLLER:
            overrides[1] = "algorithm=bc"  # for the task and how it is played
        try:
            with initialize_config_dir(str(CONFIGS), version_base="1.3"):
                return check_config(compose("td_offline", overrides=overrides))
        except InputError:
            raise
        except Exception as error:  # hydra's, of many kinds
            raise InputError(explain(str(error), *own_configs()[0], CONFIGS)) from None


@dataclass
class Options:
    """The program's own words."""

    tasks: list[str] = field(default_factory=list)
    algorithms: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    runs: Path = Path("outputs/compare")
    results: Path = Path("outputs/compare")
    jobs: int = 1
    run: bool = True
    words: tuple[str, ...] = ()


def read_words(words: list[str]) -> Options:
    """The options that ``key=value`` words mean; what is not ours is td_offline.py's.

    Raises:
        InputError: a word has no value, or a wrong one, or no task or algorithm is named.
    """
    options, others = Options(), []
    for word in words:
        key, separator, value = word.partition("=")
        if not separator:
            raise InputError(f"{word!r} is not of the form key=value")
        if key in ("tasks", "algorithms"):
            setattr(options, key, [name for name in value.split(",") if name])
        elif key == "seeds":
            options.seeds = whole_numbers(word, value.split(","))
        elif key == "jobs":
            (options.jobs,) = whole_numbers(word, [value], least=1)
        elif key in ("runs", "results"):
            setattr(options, key, Path(value))
        elif key == "run":
            if value.lower() not in ("true", "false"):
                raise InputError(f"{word}; allowed are run=true and run=false")
            options.run = value.lower() == "true"
        elif (ours := setting_of(word)) in _OURS:
            raise InputError(f"{word}; the comparison gives it to its runs: {_OURS[ours]}")
        else:
            others.append(word)
    for key in ("tasks", "algorithms"):
        if not getattr(options, key):
            raise InputError(f"which {key}? give {key}=... with commas between several")
    options.words = tuple(others)
    return options


def whole_numbers(word: str, numbers: list[str], least: int = 0) -> list[int]:
    """The numbers that a word gives.

    Raises:
        InputError: one is none, or too small.
    """
    if not all(number.isdecimal() and int(number) >= least for number in numbers):
        raise InputError(f"{word}; allowed are whole numbers, as in seeds=0,1,2 or jobs=2")
    return [int(number) for number in numbers]


def compare(options: Options) -> str:
    """Makes what is missing and returns the tables, which it also writes.

    Raises:
        InputError: a word is wrong, a result cannot be compared, or a run failed.
    """
    asked = dict.fromkeys(  # each once
        Asked(task, algorithm, seed, options.words)
        for task in options.tasks
        for algorithm in options.algorithms
        for seed in (options.seeds if algorithm != CONTROLLER else [0])
    )
    configs = {one: one.config() for one in asked}
    check_configs(configs)
    files = {one: result_file(options.results, one) for one in asked}
    found = {one: read_result(file) for one, file in files.items() if file.exists()}
    for one, result in found.items():
        if one.algorithm == CONTROLLER:
            check_controller_asked(result, configs[one], files[one])
        else:
            check_asked(result, configs[one], files[one], one.names("dataset.source"))
    missing = [one for one in asked if one not in found]
    if missing and not options.run:
        raise InputError(f"{files[missing[0]]} is missing, and run=false")
    for folder in (options.results, options.runs) if missing else ():
        make_folder(folder)
    for one in missing:  # now, and not when its turn has come
        if one.algorithm != CONTROLLER:
            try:
                check_read(configs[one], one.words)
            except InputError as error:
                raise InputError(f"{one.algorithm} on {one.task}: {error}") from None
    for one in {one.task: one for one in missing}.values():
        if not one.names("dataset.source"):
            ensure_recorded(configs[one].dataset.source)
    with ThreadPoolExecutor(options.jobs) as pool:
        problems = list(
            pool.map(lambda one: make(one, configs[one], options.runs, files[one]), missing)
        )
    results = [(str(file), read_result(file)) for file in files.values() if file.exists()]
    if results:
        check_comparable(results)
        text = markdown([result for _, result in results])
        write_text(options.results / "comparison.md", text)
        plot_comparison([result for _, result in results], options.results / "comparison.png")
        sys.stdout.write(text)
    failed = [problem for problem in problems if problem]
    if failed:
        raise InputError(f"{len(failed)} of {len(missing)} runs failed: {failed[0]}")
    return text


def check_configs(configs: dict[Asked, Config]) -> None:
    """Refuses what could not be compared once it was run.

    Raises:
        InputError: nothing is played, or two tasks' files have one name.
    """
    named: dict[str, str] = {}
    for one, config in configs.items():
        if not config.evaluation.episodes:
            raise InputError(f"{one.task}: evaluation.episodes=0 leaves nothing to compare")
        first = named.setdefault(config.task.name, one.task)
        if first != one.task:
            raise InputError(
                f"the files of tasks={first},{one.task} have one task.name, {config.task.name}, by "
                f"which results are told apart; give each its own"
            )


def make_folder(folder: Path) -> None:
    """Makes a folder that is written to later.

    Raises:
        InputError: it cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, "it is not writable")
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; give another") from None


def result_file(folder: Path, asked: Asked) -> Path:
    """Where a result is kept."""
    seed = "" if asked.algorithm == CONTROLLER else f"-seed{asked.seed}"
    return folder / asked.task / f"{asked.algorithm}{seed}.json"


def make(asked: Asked, config: Config, runs: Path, file: Path) -> str:
    """Runs, or resumes, one run; what went wrong in one line, or an empty string."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if asked.algorithm == CONTROLLER:
        try:
            write_json(file, play_controller(config))
        except InputError as error:
            return str(error)
        return ""
    folder = runs / asked.task / f"{asked.algorithm}-seed{asked.seed}"
    if not (folder / "results.json").exists():
        problem = train(asked, folder)
        if problem:
            return problem
    try:
        result = collect(folder, asked.algorithm)
        if only_played_otherwise(result, config):
            sys.stderr.write(f"{asked.task}, {asked.algorithm}, seed {asked.seed}: played again\n")
            with _PLAYING:
                result = play_again(folder, result, config)
        check_asked(result, config, folder / "results.json", asked.names("dataset.source"))
    except InputError as error:
        return str(error)
    write_json(file, result)
    return ""


def train(asked: Asked, folder: Path) -> str:
    """td_offline.py in a process of its own."""
    sys.stderr.write(f"{asked.task}, {asked.algorithm}, seed {asked.seed}: in {folder}\n")
    words = [*asked.overrides(), f"output_dir={folder}", "resume=auto", "progress=false"]
    folders = [f"--config-dir={folder}" for folder in own_configs()[0]]
    command = [sys.executable, str(ROOT / "examples" / "td_offline.py"), *folders, *words]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    started = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _trainings.add(started)
    out, err = started.communicate()
    _trainings.discard(started)
    run = f"{asked.task}, {asked.algorithm}, seed {asked.seed}"
    for line in filter(_WARNING.match, out.splitlines()):
        sys.stderr.write(f"{run}: {line}\n")
    if started.returncode == 0 and (folder / "results.json").exists():
        return ""
    if started.returncode < 0:  # what it said last is of no error
        name = signal.Signals(-started.returncode).name
        return f"{run}: killed by {name}; the same words again go on from its last checkpoint"
    lines = [line for line in err.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("error: ")] or lines[-1:]
    return f"{run}: {' '.join(said) or 'no word'}"


def end_trainings(number: int, frame: object) -> NoReturn:
    """Handles SIGTERM: what was started saves and ends, too, and the same words again go on."""
    for training in tuple(_trainings):
        training.terminate()
    sys.exit(128 + number)


if __name__ == "__main__":
    if not help_asked(__doc__):
        signal.signal(signal.SIGTERM, end_trainings)
        Plugins.instance().register(OwnConfigsFirst)
        run_program(lambda: compare(read_words(own_configs()[1])))
