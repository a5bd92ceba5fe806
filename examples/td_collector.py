"""The planner as a policy in a TorchRL pipeline: workers collect, a replay buffer fills.

    python examples/td_collector.py
    python examples/td_collector.py checkpoint=outputs/pointmaze/umaze-small-seed0/checkpoint
    python examples/td_collector.py checkpoint=... workers=4 frames=10000 planner.refine_steps=2

Without a checkpoint a tiny untrained planner plays PointMaze, to show how the parts fit.
Words: checkpoint=, workers= (processes), frames= (steps in all), seed=, output= (a folder the
buffer is saved to) and, with a checkpoint, env= (another environment than its run's) and any
setting under planner.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from tensordict import TensorDictBase
from torchrl.collectors import MultiSyncCollector
from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer
from torchrl.envs import EnvBase, TransformedEnv
from torchrl.modules import MLP

from torchrl_td import InputError, TDPlannerActor
from torchrl_td.checkpoint import checkpoint_task
from torchrl_td.commands.usage import help_asked
from torchrl_td.config import TaskConfig
from torchrl_td.data import Normalizer
from torchrl_td.data.choices import choices_of
from torchrl_td.envs import make_base_env, opened, planning_transforms
from torchrl_td.experiment.cli import main
from torchrl_td.modules import (
    DiffusionRefiner,
    InverseDynamics,
    NoiseSchedule,
    TrajectoryGenerator,
    TrajectoryPlanner,
)
from torchrl_td.networks import TemporalUNet, TrajectoryTransformer

DEFAULTS: dict[str, Any] = {
    "checkpoint": "",
    "workers": 2,
    "frames": 1200,
    "seed": 0,
    "output": "",
    "env": "",
}


def td_collector() -> None:
    """Collects, fills the buffer and says what is in it."""
    if help_asked(__doc__):
        return
    options, overrides = read_words(sys.argv[1:])
    if options["checkpoint"]:
        task, actor = trained(options["checkpoint"], options["env"] or None, overrides)
    elif overrides or options["env"]:
        given = ", ".join([*overrides, *(["env"] if options["env"] else [])])
        raise InputError(f"{given} need a checkpoint=; the default planner is fixed")
    else:
        task, actor = untrained()
    workers, frames = options["workers"], options["frames"]

    # The planner's plan is made on one thread in each worker, with weights packed for it.
    actor.compile()
    collector = MultiSyncCollector(
        [partial(make_environment, task, options["seed"] + worker) for worker in range(workers)],
        actor,
        frames_per_batch=min(frames, 200 * workers),
        total_frames=frames,
        # Adds actor.make_tensordict_primer(), which holds the planner's state.
        auto_register_policy_transforms=True,
        cat_results="stack",
    )
    collector.set_seed(options["seed"])
    storage = LazyMemmapStorage(frames, scratch_dir=options["output"] or None)
    buffer = TensorDictReplayBuffer(storage=storage, batch_size=min(32, frames))
    returns: list[float] = []
    try:
        for data in collector:  # [workers, steps]
            buffer.extend(data.exclude("planner", ("next", "planner")).reshape(-1))
            returns += finished_returns(data)
            print(f"{len(buffer)} of {frames} steps, {len(returns)} episodes done", flush=True)
    finally:
        collector.shutdown()
        # The collector closes its queues when it is freed, for which it starts threads. Left to
        # the interpreter's own end, that can wait for ever.
        del collector
        gc.collect()
    report(buffer, returns)


def make_environment(task: TaskConfig, seed: int) -> EnvBase:
    """One environment with what a planner reads: resets marked, the return still asked for."""
    env = TransformedEnv(make_base_env(task), planning_transforms(task.target_return))
    env.set_seed(seed)
    return env


def trained(
    checkpoint: str, env: str | None, overrides: dict[str, Any]
) -> tuple[TaskConfig, TDPlannerActor]:
    """The planner of a training run and its task."""
    task, asked = checkpoint_task(checkpoint, env)
    if task.env is None:
        raise InputError(
            "the run of this checkpoint has no environment; name one, env=<Gymnasium id>"
        )
    task.target_return = asked
    with opened(make_base_env(task)) as played:
        spec = played.action_spec
    if choices_of(spec) is not None:  # in the form that this environment takes
        overrides = {**overrides, "action_spec": spec}
    return task, TDPlannerActor.from_checkpoint(checkpoint, **overrides)


def untrained() -> tuple[TaskConfig, TDPlannerActor]:
    """A tiny planner with random weights for PointMaze (6 observed, 2 actions)."""
    task = TaskConfig(
        name="pointmaze/umaze",
        env="PointMaze_UMaze-v3",
        env_kwargs={"continuing_task": True, "reset_target": False},
        max_episode_steps=300,
        target_return=160.0,
    )
    horizon, width, actions = 8, 6, 2
    planner = TrajectoryPlanner(
        TrajectoryGenerator(TrajectoryTransformer(width, 2 * horizon - 2, width=32, layers=1)),
        DiffusionRefiner(TemporalUNet(width, 16, (1, 2)), NoiseSchedule(), refine_steps=2),
        InverseDynamics(MLP(2 * width, actions, num_cells=(32,))),
        horizon=horizon,
    )
    normalizer = Normalizer(torch.zeros(width), torch.ones(width), returns_scale=100.0)
    return task, TDPlannerActor(planner, normalizer, action_spec=make_base_env(task).action_spec)


def finished_returns(data: TensorDictBase) -> list[float]:
    """Returns of the episodes that ended within collected data [workers, steps]."""
    return data["next", "episode_reward"][data["next", "done"]].tolist()


def report(buffer: TensorDictReplayBuffer, returns: list[float]) -> None:
    """Says what the buffer holds."""
    sample = buffer.sample()
    shapes = {
        ", ".join(key) if isinstance(key, tuple) else key: list(sample[key].shape)
        for key in ("observation", "action", ("plan", "draft"), ("plan", "refined"))
    }
    print("a batch of the replay buffer:", shapes)
    if returns:
        print(f"{len(returns)} episodes, mean return {sum(returns) / len(returns):.1f}")


def read_words(words: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Own options and the planner's settings, from ``key=value`` words."""
    options, overrides = dict(DEFAULTS), {}
    for word in words:
        key, separator, text = word.partition("=")
        if separator and key.startswith("planner."):
            overrides[key.removeprefix("planner.")] = yaml.safe_load(text)
        elif not separator or key not in DEFAULTS:
            allowed = ", ".join(f"{name}=" for name in DEFAULTS)
            raise InputError(f"unknown word {word!r}; allowed are {allowed}, planner.*=")
        elif isinstance(DEFAULTS[key], int):
            low = 0 if key == "seed" else 1
            if not text.isdecimal() or int(text) < low:
                raise InputError(f"{key}={text}; allowed are whole numbers from {low} on")
            options[key] = int(text)
        else:
            options[key] = text
    if options["frames"] % options["workers"]:
        raise InputError(
            f"frames={options['frames']} must be divisible by workers={options['workers']}"
        )
    if options["output"]:
        make_empty(Path(options["output"]))
    return options, overrides


def make_empty(folder: Path) -> None:
    """Makes a folder for the buffer's files, which must not be there yet."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_empty = not any(folder.iterdir())
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, "it is not writable")
    except OSError as error:
        raise InputError(f"cannot write to output={folder}: {error.strerror}") from None
    if not is_empty:
        raise InputError(f"output={folder} is not empty; name a new folder for the buffer")


if __name__ == "__main__":
    main(td_collector)
