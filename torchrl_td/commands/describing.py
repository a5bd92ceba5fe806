"""`td-data describe`: what is in a dataset, as a table, as JSON and as a picture."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase

from torchrl_td.advice import command
from torchrl_td.data import load_episodes
from torchrl_td.data.keys import named_keys
from torchrl_td.data.source_info import source_info
from torchrl_td.data.statistics import describe, episode_returns, quality_warnings
from torchrl_td.data.task_file import write_task
from torchrl_td.data.validation import NotFiniteError
from torchrl_td.errors import InputError, first_line
from torchrl_td.experiment.streams import write_to

_UNKNOWN = "no finite number"


def run_describe(options: argparse.Namespace) -> None:
    """Load a dataset, print its table and warnings, write picture and JSON if asked."""
    references, keys = given_references(options), named_keys(options.observation_keys)
    for path in (options.picture, options.json):
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{path}: there is no folder {path.parent}; make it first")
        if path is not None and path.is_dir():
            raise InputError(f"{path}: is a folder; name a file")
    limit = options.max_episode_steps
    if limit is not None and limit < 1:
        raise InputError(f"--max-episode-steps {limit}: allowed is 1 or more")
    load = partial(load_episodes, options.source, observation_keys=keys, max_episode_steps=limit)
    finite = True
    try:
        episodes = load()
    except NotFiniteError:  # the warnings say where
        episodes, finite = load(finite=False), False
    info = source_info(options.source)
    if limit is not None:
        info = dataclasses.replace(info, max_episode_steps=limit)
    if references is not None:
        info = dataclasses.replace(info, ref_min_score=references[0], ref_max_score=references[1])
    numbers = describe(episodes, info)
    warnings = quality_warnings(episodes, info)
    lines = [table(options.source, numbers), *(f"warning: {warning}" for warning in warnings)]
    write_to(sys.stdout, "\n".join(lines) + "\n")
    if options.json is not None:
        text = json.dumps({"source": options.source, **numbers, "warnings": warnings}, indent=2)
        try:
            options.json.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write {options.json}: {first_line(error)}") from None
    if options.picture is not None:
        draw_histograms(options.source, episodes, options.picture)
        write_to(sys.stdout, f"picture: {options.picture}\n")
    if options.write_task is not None:
        if not finite:
            raise InputError(
                f"{options.source}: no task is made of data that cannot be trained on; mend what "
                f"is warned of above"
            )
        file = write_task(options.write_task, options.source, episodes, info, keys)
        words = f"--config-dir {shlex.quote(str(file.parent.parent))} task={shlex.quote(file.stem)}"
        write_to(sys.stdout, f"task: {file}; train on it: {command('td-offline')} {words}\n")


def given_references(options: argparse.Namespace) -> tuple[float, float] | None:
    """The two references from the command line, or None."""
    low, high = options.ref_min, options.ref_max
    if low is None and high is None:
        return None
    if low is None or high is None or not -math.inf < low < high < math.inf:
        raise InputError("--ref-min and --ref-max go together, the first below the second")
    return low, high


def table(source: str, numbers: dict[str, Any]) -> str:
    """The description as lines of a name and a value."""

    rows = {
        "source": source,
        "environment": numbers["environment"] or "not stored with the data",
        "transitions": f"{numbers['transitions']:,}",
        "episodes": f"{numbers['episodes']:,}",
        "episode length": spread(numbers["length"]),
        "return": spread(numbers["return"]),
        "normalised score": (
            spread(numbers["score"])
            if numbers["score"] or not numbers["return"]
            else "no references known; give --ref-min and --ref-max"
        ),
        "reward": spread(numbers["reward"]),
        "ended by": (
            f"{numbers['terminations']:,} terminations, {numbers['truncations']:,} truncations"
        ),
        "saturated actions": f"{100 * numbers['saturated_actions']:.3g} %",
        "suggested target return": number(numbers["suggested_target_return"], "g"),
        "suggested returns scale": number(numbers["suggested_returns_scale"], "g"),
    }
    width = max(map(len, rows))
    lines = [f"{name:<{width}}  {value}" for name, value in rows.items()]
    for key in ("observation", "action"):
        low, high = numbers[key]["low"], numbers[key]["high"]
        lines.append(f"{key}, {len(low)} numbers")
        lines += [
            f"{d:>{width}}  from {number(a)} to {number(b)}"
            for d, (a, b) in enumerate(zip(low, high, strict=True))
        ]
    return "\n".join(lines)


def spread(value: dict[str, float] | None) -> str:
    """A mean, standard deviation, minimum and maximum of the table."""
    if value is None:
        return _UNKNOWN
    return "{mean:.6g} ± {std:.4g}, from {min:.6g} to {max:.6g}".format(**value)


def number(value: float | None, form: str = ".6g") -> str:
    """A number of the table, which may not be known."""
    return _UNKNOWN if value is None else f"{value:{form}}"


def draw_histograms(source: str, episodes: TensorDictBase, path: Path) -> None:
    """Histograms of the episodes' returns and lengths."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for axis, values, label in zip(
        axes, episode_returns(episodes), ("return", "length, steps"), strict=True
    ):
        axis.hist(values[torch.isfinite(values)].numpy(), bins=40)
        axis.set_xlabel(label)
        axis.set_ylabel("episodes")
    figure.suptitle(source)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot write the picture ({error})") from error
    finally:
        plt.close(figure)
