"""Trains Trajectory Diffuser on offline data, plays its environment and shows its plans."""

from __future__ import annotations

import argparse
import re
import sys
from itertools import islice, product
from pathlib import Path

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from torchrl_td.config import CONFIGS, check_config
from torchrl_td.errors import InputError
from torchrl_td.experiment import cli
from torchrl_td.experiment.beside import baseline_beside
from torchrl_td.experiment.resume import folder_of
from torchrl_td.experiment.run import run
from torchrl_td.experiment.run_folder import read_settings


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="td_offline")
@cli.job
def td_offline(config: DictConfig) -> None:
    """Trains and evaluates as ``config`` says, a baseline beside a planner, and prints results."""
    job = HydraConfig.get()
    check_preset(config, job.runtime.choices["preset"])
    settings, words = check_config(config), job.overrides.task
    folder, configs = folder_of(settings, words).expanduser(), [*own_configs()[0], CONFIGS]
    summary, beside = run(settings, words, configs=configs), []
    if summary["results"] and "stopped_by" not in summary:
        baseline = baseline_beside(read_settings(folder), folder, configs)
        beside = [] if baseline is None else [run(baseline)]
    if summary["results"] or "nothing_played" in summary:
        cli.print_results(summary, *beside)
    for one in (summary, *beside):
        if "stopped_by" in one:
            cli.stop(one["stopped_by"])


def check_preset(config: DictConfig, chosen: str) -> None:
    """Refuses a preset's file that goes by another's name, which tells its runs apart."""
    chosen = (chosen or "").removesuffix(".yaml")
    preset = None if OmegaConf.is_missing(config, "preset") else config.get("preset")
    if chosen and preset != chosen and (preset is None or isinstance(preset, str)):
        says = "name no preset" if preset is None else f"name the preset {preset!r}"
        raise InputError(
            f"preset={chosen}: the files composed {says}; give its own the setting preset: {chosen}"
        )


def own_configs() -> tuple[list[Path], list[str]]:
    """The folder of the user's own files that the command line names, if it does; other words."""
    words = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    words.add_argument("--config-dir", "-cd", type=Path)
    words.add_argument("-c")  # hydra's --cfg, which would be taken for the beginning of -cd
    named, others = words.parse_known_args(sys.argv[1:])
    return [] if named.config_dir is None else [named.config_dir.resolve()], others


class OwnConfigsFirst(SearchPathPlugin):
    """Has a file under ``--config-dir`` stand for ours of the same name, which hydra would take."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in own_configs()[0]:
            search_path.prepend("own", f"file://{folder}", anchor="main")


# Hydra's options that a value follows.
_TAKE_A_VALUE = (
    *("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp"),
    *("--package", "-p", "--cfg", "-c", "--experimental-rerun"),
)
_MULTIRUN = {"-m", "--multirun", "hydra.mode=MULTIRUN"}
_MOST_COMPOSED = 100  # jobs of one command, each of which takes a tenth of a second


def several_runs(words: list[str]) -> None:
    """Refuses one folder for several runs of a multirun, of which the first alone would get it.

    Raises:
        InputError: it is that of two of them.
    """
    if not _MULTIRUN & set(words) or {"-cn", "--config-name"} & set(words):
        return  # of another file nothing is known
    try:
        swept, folders = _folders(words)
    except (HydraException, OmegaConfBaseException, InputError, ValueError):
        return  # a job that cannot be composed, which hydra says; or folders that hydra names
    if len(set(folders)) < len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        names = [f"{key}.name" if key in ("task", "algorithm") else key for key in swept]
        differs = "-".join(f"${{{name}}}" for name in names)
        raise InputError(
            f"{twice} would be the folder of several runs; name what differs, as in "
            f"'output_dir=runs/{differs}'"
        )


def _folders(words: list[str]) -> tuple[list[str], list[Path]]:
    """The keys that differ between the jobs of a multirun, and the folder of each job."""
    ours = [word for word in words if not word.startswith(("-", "hydra"))]
    parsed = OverridesParser.create().parse_overrides(ours)
    values = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [str(one.input_line)]
        for one in parsed
    ]
    folders = []
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for job in islice(product(*values), _MOST_COMPOSED):
            composed = compose("td_offline", overrides=list(job))
            chosen = [word.partition("=")[2] for word in job if word.startswith("preset=")]
            for preset in chosen:
                check_preset(composed, preset)
            settings = check_config(composed)
            folders.append(folder_of(settings, job).expanduser().resolve())
    return [one.key_or_group for one in parsed if one.is_sweep_override()], folders


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
