"""A task file written from data: every setting of a task with a value that the data suggests."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from tensordict import TensorDictBase

from torchrl_td.data.keys import Key
from torchrl_td.data.source_info import SourceInfo
from torchrl_td.data.statistics import describe as statistics
from torchrl_td.data.statistics import episode_returns
from torchrl_td.errors import InputError, first_line

_HORIZONS = (32, 16, 8)  # that every preset's U-Net takes
_STRIDED_HORIZON = 5  # states of preset strided's plans
_STRIDES = (1, 2, 4, 8)  # as long a plan as any task here has, 32 steps
_FAR = 0.5  # standard deviations that a plan is to span: one passage, and not the whole way
_SAMPLES = 10_000  # starts at which that is measured
_PASSES = 100  # over the data, the most that preset strided makes: of more it learns by heart
_BATCH = 256  # preset strided's
_FEWEST = 1_000  # optimisation steps, however little the data


class _Line(NamedTuple):
    key: str
    value: Any
    comment: str


def write_task(
    path: Path,
    source: str,
    episodes: TensorDictBase,
    info: SourceInfo,
    observation_keys: Sequence[str | Key] | None = None,
) -> Path:
    """Writes a task's settings for a dataset, each with its comment, where hydra finds them.

    Args:
        path: such as ``my_task.yaml``. Hydra looks for a task in a folder ``task``: if the path
            names none, it is put into one beside it.
        source: the dataset, as for :func:`torchrl_td.data.load_episodes`.
        episodes: what it holds, finite.
        info: environment and references, as far as they are known.
        observation_keys: entries of a Dict observation that were joined.

    Returns:
        The file written. ``--config-dir`` takes the folder above it.

    Raises:
        InputError: there is such a file, it cannot be written, or its name is none for a task.

    >>> import tempfile
    >>> from tensordict import TensorDict
    >>> from torchrl_td.data import load_episodes
    >>> data = load_episodes(TensorDict({
    ...     "observation": torch.rand(40, 3), "action": torch.rand(40, 2), "next": {
    ...         "observation": torch.rand(40, 3), "reward": torch.ones(40, 1),
    ...         "truncated": (torch.arange(40) % 20 == 19)[:, None],
    ...     },
    ... }, batch_size=[40]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = write_task(Path(folder) / "mine.yaml", "d4rl:mine.hdf5", data, SourceInfo())
    ...     file.parent.name, file.read_text().splitlines()[4]
    ('task', '  name: mine # name in results')
    """
    if path.suffix != ".yaml" or not path.stem.replace("_", "").replace("-", "").isalnum():
        raise InputError(f"--write-task {path}: a task's file is named like my_task.yaml")
    path = path if path.parent.name == "task" else path.parent / "task" / path.name
    numbers = statistics(episodes, info)
    if numbers["return"] is None:
        raise InputError(f"{source}: no episode has a finite return, so no task is made of it")
    task = _task(path.stem, episodes, info, numbers, observation_keys)
    lines = [
        "# @package _global_",
        f"# Made from {_written(source)}: {numbers['transitions']:,} steps in "
        f"{numbers['episodes']:,} episodes, returns from {numbers['return']['min']:.4g} to "
        f"{numbers['return']['max']:.4g}.",
        "# Every value is a suggestion of the data; change what you know better.",
        "task:",
        *(f"  {key}: {_written(value)} # {comment}" for key, value, comment in task),
        "",
        "dataset:",
        f"  source: {_written(source)} # what this file was made from",
        f"  validation_share: {_validation_share(numbers['episodes'])} # share of episodes held "
        "out for the validation loss",
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
    except FileExistsError:
        raise InputError(
            f"{path} exists already; remove it, or name another --write-task"
        ) from None
    except OSError as error:
        raise InputError(f"cannot write {path}: {first_line(error)}") from None
    return path


def _task(
    name: str,
    episodes: TensorDictBase,
    info: SourceInfo,
    numbers: dict[str, Any],
    observation_keys: Sequence[str | Key] | None,
) -> list[_Line]:
    """The task's settings in the order of those under ``configs/task``."""
    _, lengths = episode_returns(episodes)
    usual, longest = float(lengths.double().median()), int(lengths.max())
    horizon = next((h for h in _HORIZONS if 2 * h <= usual), _HORIZONS[-1])
    stride = _stride(episodes, usual)
    return [
        _Line("name", name, "name in results"),
        *_environment(info, longest),
        *_entries(observation_keys),
        _Line("horizon", horizon, "H, states in a plan with the present one; divisible by 8"),
        _Line("strided_horizon", max(2, min(_STRIDED_HORIZON, longest)), "H of preset strided"),
        _Line(
            "stride",
            stride,
            f"m, steps between the states of a plan, in preset strided: its "
            f"{stride * (_STRIDED_HORIZON - 1)} steps move the state by half its spread, or less",
        ),
        _Line(
            "scored",
            False,
            "preset strided asks for the target return; true: for a learned value's score",
        ),
        _Line(
            "pays_any_goal",
            False,
            "true: the goal is observed, the environment pays any and goes on there",
        ),
        _Line(
            "strided_steps",
            _steps(numbers["transitions"]),
            "preset strided's optimisation steps, for 2 CPU cores",
        ),
        _Line("refine_steps", 5, "k, denoising steps on a draft; the paper's usual (Table A6)"),
        _Line("guidance_scale", 1.2, "omega of classifier-free guidance; the paper's usual"),
        _Line(
            "target_return",
            numbers["suggested_target_return"],
            "return asked for, reward units: that of the data's best twentieth",
        ),
        _Line(
            "returns_scale",
            numbers["suggested_returns_scale"],
            "reward units; brings the largest return to about 1 to 4",
        ),
        _Line("learning_rate", 2e-4, "Adam's, preset paper; the paper's usual (Table A6)"),
        _Line("training_steps", 200_000, "preset paper's optimisation steps; the paper's (5.2)"),
        *_references(info, numbers["return"]),
    ]


def _environment(info: SourceInfo, longest: int) -> list[_Line]:
    """Which environment is played, and for how long."""
    if info.environment is None:
        why = "the data names none: give a Gymnasium id, or train with evaluation.episodes=0"
        found = [_Line("env", None, why)]
    elif info.exact_goal:
        why = "recorded with a goal that the data does not tell: take the task it was recorded for"
        found = [_Line("env", None, why)]
    elif ":" in info.environment:
        # To make it, Gymnasium would import a module that the data names.
        named = "".join(c for c in repr(info.environment) if c.isprintable())
        why = f"the data names {named}, which imports a module: name it if you trust it"
        found = [_Line("env", None, why)]
    else:
        found = [_Line("env", info.environment, "Gymnasium id, as the data names it")]
        if info.environment_kwargs:
            kwargs = dict(info.environment_kwargs)
            found.append(_Line("env_kwargs", kwargs, "what it was made with, as the data says"))
    limit, why = info.max_episode_steps, "the environment's limit, as the data says"
    if limit is None:
        limit, why = longest, "the data's longest episode"
    return [*found, _Line("max_episode_steps", limit, why)]


def _entries(keys: Sequence[str | Key] | None) -> list[_Line]:
    if keys is None:
        return []
    names = [key if isinstance(key, str) else "/".join(key) for key in keys]
    return [_Line("observation_keys", names, "entries of the observation, in this order")]


def _references(info: SourceInfo, returns: dict[str, float]) -> list[_Line]:
    """The returns that score 0 and 100."""
    low, high = info.ref_min_score, info.ref_max_score
    if low is not None and high is not None and low < high:
        return [
            _Line("score_min", low, "return that scores 0, as the data says"),
            _Line("score_max", high, "return that scores 100, as the data says"),
        ]
    if not returns["min"] < returns["max"]:
        why = "no reference is known, and all episodes return the same: scores are returns"
        return [_Line("score_min", None, why), _Line("score_max", None, "likewise")]
    return [
        _Line("score_min", returns["min"], "no reference is known: the data's worst episode"),
        _Line("score_max", returns["max"], "likewise: the data's best episode scores 100"),
    ]


def _steps(transitions: int) -> int:
    """Optimisation steps of preset strided, to two digits.

    >>> _steps(400_000), _steps(50_000), _steps(6_700), _steps(100)
    (15000, 6000, 2600, 1000)
    """
    most = max(_PASSES * transitions / _BATCH, _FEWEST)
    return min(15_000 if transitions > 200_000 else 6_000, int(float(f"{most:.1e}")))


def _stride(episodes: TensorDictBase, usual: float) -> int:
    """The longest stride whose plans stay within half a standard deviation and an episode."""
    observation, episode = episodes["observation"], episodes["episode"].reshape(-1)
    spread = observation.double().std(0, correction=0)
    changing = spread > 1e-6 * spread.max()
    drawn = torch.Generator().manual_seed(0)
    start = torch.randint(len(episode), (_SAMPLES,), generator=drawn)
    best = _STRIDES[0]
    for stride in _STRIDES[1:]:
        lag = stride * (_STRIDED_HORIZON - 1)
        end = (start + lag).clamp(max=len(episode) - 1)
        inside = (episode[end] == episode[start]) & (end - start == lag)
        if not inside.any() or 4 * lag > usual:
            break
        moved = observation[end[inside]].double() - observation[start[inside]].double()
        rms = moved[:, changing].square().mean(0).sqrt() / spread[changing]
        if float(rms.median()) > _FAR:
            break
        best = stride
    return best


def _validation_share(episodes: int) -> float:
    """The usual twentieth, or what holds one episode out."""
    return max(0.05, min(0.5, math.ceil(100 / episodes) / 100))


def _written(value: Any) -> str:
    """A value as YAML has it; JSON is YAML, and quotes what would be taken for something else."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w:/.-]*[\w]", value):
        return value if yaml.safe_load(value) == value else json.dumps(value)
    return json.dumps(value)
