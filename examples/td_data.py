"""Look at a dataset, or record one.

    python examples/td_data.py describe d4rl:path/to/file.hdf5 --picture histograms.png
    python examples/td_data.py record maze2d/medium --steps 1000000 --overwrite
    python examples/td_data.py record Hopper-v5 --dataset my/hopper/random-v0
    python examples/td_data.py record Hopper-v5 --dataset my/hopper/td-v0 --checkpoint <folder>

`describe` prints a table of what is in a dataset and warns of what looks wrong.
`record` writes a local Minari dataset: the PointMaze or Maze2D data, or any Gymnasium
environment with random actions or a trained planner. What was recorded is
loaded by its id: `dataset.source=minari:my/hopper/random-v0`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase

from torchrl_td.data import load_episodes, observation_keys, record_pointmaze
from torchrl_td.data.mazes.maze2d import record_maze2d
from torchrl_td.data.mazes.pointmaze import POINTMAZE_TASKS
from torchrl_td.data.mazes.record_policy import (
    Policy,
    make_environment,
    random_policy,
    record_dataset,
)
from torchrl_td.data.source_info import source_info
from torchrl_td.data.statistics import describe, episode_returns, quality_warnings
from torchrl_td.data.validation import NotFiniteError
from torchrl_td.errors import InputError
from torchrl_td.experiment.streams import close_streams, prepare_streams, write_to

_UNKNOWN = "no finite number"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 1 where the user has something to mend."""
    options = parser().parse_args(arguments)
    prepare_streams()
    try:
        options.run(options)
    except InputError as error:
        write_to(sys.stderr, f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        write_to(sys.stderr, "stopped; nothing was written\n")
        return 130
    finally:
        close_streams()
    return 0


def parser() -> argparse.ArgumentParser:
    """The two commands and their options."""
    out = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = out.add_subparsers(required=True, metavar="describe | record")
    look = commands.add_parser("describe", help="print what a dataset holds")
    look.add_argument("source", help="minari:<id> or d4rl:<id or path>")
    look.add_argument("--picture", type=Path, help="histograms of returns and lengths go here")
    look.add_argument("--json", type=Path, help="the table's numbers go here")
    entries = "entries of a Dict observation to join, in this order, nested ones as goal/kettle"
    look.add_argument("--observation-keys", nargs="+", type=entry, metavar="KEY", help=entries)
    look.add_argument("--ref-min", type=float, help="return that scores 0")
    look.add_argument("--ref-max", type=float, help="return that scores 100")
    look.set_defaults(run=run_describe)
    record = commands.add_parser("record", help="record a local Minari dataset")
    record.add_argument("what", help="pointmaze/umaze, maze2d/large, ... or an environment's id")
    record.add_argument("--dataset", help="id to record under, <namespace>/<name>-v<number>")
    steps = "transitions, at least; else D4RL's 1, 2 or 4 million of a maze, and 200,000 elsewhere"
    record.add_argument("--steps", type=int, help=steps)
    record.add_argument("--seed", type=int, default=0)
    record.add_argument("--workers", type=int, help="processes (PointMaze only); else all cores")
    record.add_argument("--overwrite", action="store_true", help="replace a dataset of that id")
    record.add_argument("--max-episode-steps", type=int, help="other than the environment's own")
    record.add_argument("--checkpoint", type=Path, help="a trained planner; else random actions")
    record.add_argument("--target-return", type=float, help="asked of the planner; else its own")
    record.add_argument("--ref-min", type=float, help="return that scores 0")
    record.add_argument("--ref-max", type=float, help="return that scores 100")
    record.set_defaults(run=run_record)
    return out


def entry(key: str) -> str | tuple[str, ...]:
    """An entry of an observation as it is written on the command line."""
    return tuple(key.split("/")) if "/" in key else key


def run_describe(options: argparse.Namespace) -> None:
    """Load a dataset, print its table and warnings, write picture and JSON if asked."""
    references = given_references(options)
    for path in (options.picture, options.json):
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{path}: there is no folder {path.parent}; make it first")
        if path is not None and path.is_dir():
            raise InputError(f"{path}: is a folder; name a file")
    load = partial(load_episodes, options.source, observation_keys=options.observation_keys)
    try:
        episodes = load()
    except NotFiniteError:  # the warnings say where
        episodes = load(finite=False)
    info = source_info(options.source)
    if references is not None:
        info = dataclasses.replace(info, ref_min_score=references[0], ref_max_score=references[1])
    numbers = describe(episodes, info)
    warnings = quality_warnings(episodes, info)
    lines = [table(options.source, numbers), *(f"warning: {warning}" for warning in warnings)]
    write_to(sys.stdout, "\n".join(lines) + "\n")
    if options.json is not None:
        text = json.dumps({"source": options.source, **numbers, "warnings": warnings}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
    if options.picture is not None:
        draw_histograms(options.source, episodes, options.picture)
        write_to(sys.stdout, f"picture: {options.picture}\n")


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


def run_record(options: argparse.Namespace) -> None:
    """Record a maze, or another environment with random actions or a planner."""
    family, _, size = options.what.partition("/")
    recorders = {
        "pointmaze": partial(record_pointmaze, workers=options.workers),
        "maze2d": record_maze2d,
    }
    if family in recorders and size in POINTMAZE_TASKS:
        if options.dataset is not None or options.checkpoint is not None:
            raise InputError(
                f"{options.what} is recorded by its own walker under its own id; leave out "
                "--dataset and --checkpoint"
            )
        record = recorders[family]
        dataset_id = record(size, options.steps, options.seed, overwrite=options.overwrite)
    else:
        dataset_id = record_environment(options)
    write_to(sys.stdout, f"recorded minari:{dataset_id}\n")


def record_environment(options: argparse.Namespace) -> str:
    """Record the environment named on the command line."""
    if options.dataset is None:
        raise InputError("name the recording: --dataset <namespace>/<name>-v<number>")
    references = given_references(options)
    env = make_environment(options.what, max_episode_steps=options.max_episode_steps)
    name, policy = "random actions", random_policy(env, options.seed)
    try:
        if options.checkpoint is not None:
            name = f"Trajectory Diffuser, {options.checkpoint.name}"
            torch.manual_seed(options.seed)
            policy = planner_policy(options.checkpoint, options.target_return)
        return record_dataset(
            env,
            options.dataset,
            policy,
            200_000 if options.steps is None else options.steps,
            seed=options.seed,
            name=name,
            references=references,
            overwrite=options.overwrite,
        )
    finally:
        env.close()


def planner_policy(checkpoint: Path, target_return: float | None) -> Policy:
    """A trained planner as a policy: its state is carried from step to step here.

    Args:
        checkpoint: a run's output folder, or a checkpoint in it.
        target_return: return asked for at an episode's start; None takes the run's.

    Raises:
        InputError: there is no checkpoint, or it is damaged.
    """
    from torchrl_td import TDPlannerActor
    from torchrl_td.checkpoint import find_checkpoint, load_about

    path = find_checkpoint(checkpoint)
    actor = TDPlannerActor.from_checkpoint(path)
    if target_return is None:
        target_return = float(load_about(path)["config"]["evaluation"]["target_return"])
    carried: dict[str, Any] = {}

    def act(observation: Any, reward: float, first: bool) -> np.ndarray:
        if first:
            carried["planner"] = actor.planner_spec.zero([1])
            carried["target"] = target_return
        else:
            carried["target"] -= reward
        out = actor(
            TensorDict(
                {
                    "observation": flat_observation(observation),
                    "target_return": torch.tensor([[carried["target"]]], dtype=torch.float32),
                    "is_init": torch.tensor([[first]]),
                    "planner": carried["planner"],
                },
                batch_size=[1],
            )
        )
        carried["planner"] = out["next", "planner"]
        return out["action"][0].numpy()

    return act


def flat_observation(observation: Any) -> torch.Tensor:
    """A Gymnasium observation as the planner sees it, [1, O] float32."""
    if not isinstance(observation, dict):
        return torch.as_tensor(np.asarray(observation)).reshape(1, -1).float()
    parts = []
    for key in observation_keys(observation):
        value = observation
        for name in (key,) if isinstance(key, str) else key:
            value = value[name]
        parts.append(torch.as_tensor(np.asarray(value)).reshape(1, -1).float())
    return torch.cat(parts, -1)


if __name__ == "__main__":
    sys.exit(main())
