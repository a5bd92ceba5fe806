"""Trains Trajectory Diffuser on offline data, plays its environment and shows its plans."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig

from torchrl_td.config import CONFIGS, check_config
from torchrl_td.errors import InputError
from torchrl_td.experiment import cli
from torchrl_td.experiment.beside import baseline_beside
from torchrl_td.experiment.resume import folder_of
from torchrl_td.experiment.run import run


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="td_offline")
@cli.job
def td_offline(config: DictConfig) -> None:
    """Trains and evaluates as ``config`` says, a baseline beside a planner, and prints results."""
    settings, words = check_config(config), HydraConfig.get().overrides.task
    folder = folder_of(settings, words).expanduser()
    summary, beside = run(settings, words), []
    if summary["results"] and "stopped_by" not in summary:
        baseline = baseline_beside(folder, [*own_configs()[0], CONFIGS])
        beside = [] if baseline is None else [run(baseline)]
    if summary["results"] or "nothing_played" in summary:
        cli.print_results(summary, *beside)
    for one in (summary, *beside):
        if "stopped_by" in one:
            cli.stop(one["stopped_by"])


def own_configs() -> tuple[list[Path], list[str]]:
    """The folder of the user's own files that the command line names, if it does; other words."""
    words = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    words.add_argument("--config-dir", "-cd", type=Path)
    named, others = words.parse_known_args(sys.argv[1:])
    return [] if named.config_dir is None else [named.config_dir.resolve()], others


class OwnConfigsFirst(SearchPathPlugin):
    """Has a file under ``--config-dir`` stand for ours of the same name, which hydra would take."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in own_configs()[0]:
            search_path.prepend("own", f"file://{folder}", anchor="main")


def _swept(word: str) -> bool:
    """Whether a word gives several values, and is not a list.

    >>> _swept("seed=0,1"), _swept("seed=range(3)"), _swept("algorithm.hidden_dims=[8,8]")
    (True, True, False)
    """
    value = word.partition("=")[2]
    sweeps = value.startswith(("choice(", "range(", "interval(", "glob("))
    return sweeps or "," in re.sub(r"\[[^]]*\]|\{[^}]*\}|'[^']*'|\"[^\"]*\"", "", value)


# Hydra's options that a value follows.
_TAKE_A_VALUE = (
    *("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp"),
    *("--package", "-p", "--cfg", "-c", "--experimental-rerun"),
)
# What the folders of runs are called by, where no word says it: see configs/algorithm.
_FOLDERS = "${task.name}-${preset}-${algorithm.name}-seed${seed}"


def several_runs(words: list[str]) -> None:
    """Refuses one folder for several runs of a multirun, of which the first alone would get it.

    Raises:
        InputError: ``output_dir`` does not name what differs.
    """
    swept = [word for word in words if _swept(word)]
    if not {"-m", "--multirun"} & set(words):
        return
    keys = [word.lstrip("+").partition("=")[0] for word in swept]
    given = [word for word in words if word.lstrip("+").startswith("output_dir=")]
    folder = given[-1] if given else _FOLDERS
    if "output_dir" in keys or "${hydra:" in folder or "${now:" in folder:
        return
    for key in keys:
        if f"${{{key}" not in folder:
            name = f"-${{{key}}}" if key not in _FOLDERS else ""
            says = f"{given[-1]} is one folder" if given else f"{key} differs, in one folder"
            raise InputError(
                f"{says} for several runs; name what differs, as in "
                f"'output_dir=runs/${{task.name}}-seed${{seed}}{name}'"
            )


def words_last(arguments: list[str]) -> list[str]:
    """The same with ``key=value`` words behind all options, which hydra takes in one row only.

    >>> words_last(["seed=0", "-m", "training.steps=2,3"])
    ['-m', 'seed=0', 'training.steps=2,3']
    """
    others: list[str] = []
    words: list[str] = []
    for option, word in zip(["", *arguments], arguments, strict=False):
        is_word = option not in _TAKE_A_VALUE and re.match(r"~|[^-][^=]*=", word)
        (words if is_word else others).append(word)
    return others + words


def program() -> None:
    """What the command runs."""
    sys.argv[1:] = words_last(sys.argv[1:])
    words = own_configs()[1]
    if any(word.startswith("--experimental-rerun") for word in words):
        raise InputError(
            "--experimental-rerun reads a pickle, which may run any code; give the words of that "
            "run anew, or resume=<its folder>"
        )
    several_runs(words)
    td_offline()


def main() -> None:
    """The command."""
    Plugins.instance().register(OwnConfigsFirst)
    cli.main(program, *own_configs()[0], CONFIGS)
