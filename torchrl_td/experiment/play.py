"""Plays episodes with a planner or another policy, in a batch of environments."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase, ParallelEnv, TransformedEnv

from torchrl_td.errors import InputError, first_line

_COUNTED = ("reward", "done", "observation")  # what is read of every step


@dataclass
class Episodes:
    """What one episode in each of B environments came to.

    Attributes:
        returns: undiscounted returns [B] float64.
        lengths: steps [B].
        successes: [B] bool, where the environment reports success.
        progress: [B], what ``task.score_key`` names at the end, where it is set.
        failed: [B] bool, broken off because the environment gave a number that is not finite. It
            is no success, and counts for what it had been paid before.
        situation: one step's inputs of the planner, batch size [1].
    """

    returns: Tensor
    lengths: Tensor
    successes: Tensor | None
    progress: Tensor | None
    failed: Tensor
    situation: TensorDictBase


def play_episodes(
    env: EnvBase, actor: Any, max_steps: int, reports: Collection[str] = ()
) -> Episodes:
    """One episode in each environment [B], keeping nothing but what they came to.

    An environment that is done is neither stepped nor counted any more, and when half of the
    environments planned for are done, plans are made for the rest alone.

    Args:
        env: as made by :func:`~torchrl_td.envs.make.make_env`.
        actor: the planner.
        max_steps: of an episode.
        reports: which of ``success`` and ``progress`` the task reports; an entry of that name is
            otherwise an observation of its own.

    Raises:
        InputError: if a worker process dies.
    """
    tally = _Tally(env.batch_size[0], reports)
    situation = None
    with _failures(env):
        step = env.reset()
        tally.break_off(step)
        planned = tally.running.nonzero().squeeze(-1)  # rows that plans are made for
        for _ in range(max_steps):
            if not tally.running.any():
                break
            if 2 * int(tally.running.sum()) <= len(planned) or tally.failed[planned].any():
                planned = tally.running.nonzero().squeeze(-1)
            situation, row = step, int(tally.running.nonzero()[0])
            step = _plan(actor, step, planned)
            if not tally.running.all():
                step.set("_step", tally.running.unsqueeze(-1).to(step.device))
            step = env.step(step)
            tally.add(step["next"].select(*_COUNTED, *reports, strict=False).cpu())
            step = env.step_mdp(step)
    if situation is None:
        raise InputError("the environment starts every episode with an observation of NaN or Inf")
    return tally.episodes(situation[row : row + 1].select(*actor.in_keys).clone())


class _Tally:
    """What the episodes in B environments have come to so far."""

    def __init__(self, count: int, reports: Collection[str]) -> None:
        self.running = torch.ones(count, dtype=torch.bool)
        self.failed = torch.zeros(count, dtype=torch.bool)
        self.returns = torch.zeros(count, dtype=torch.float64)
        self.lengths = torch.zeros(count, dtype=torch.int64)
        self.successes = torch.zeros(count, dtype=torch.bool)
        self.progress = torch.zeros(count, dtype=torch.float64)
        self.reports = reports

    def break_off(self, step: TensorDictBase) -> None:
        """Ends the episodes whose observation or reward [B, ...] is not finite."""
        for key in ("observation", "reward"):
            value = step.get(key, None)
            if value is not None:
                finite = torch.isfinite(value.reshape(len(self.running), -1)).all(-1).cpu()
                self.failed |= self.running & ~finite
        self.running &= ~self.failed

    def add(self, after: TensorDictBase) -> None:
        """Counts a step [B] of the environments that are running."""
        self.reports = [key for key in self.reports if key in after.keys()]  # TorchRL's may lack it
        count = len(self.running)
        self.lengths += self.running
        self.break_off(after)
        self.returns += torch.where(self.running, after["reward"].reshape(count).double(), 0.0)
        if "success" in self.reports:
            self.successes |= after["success"].reshape(count) & self.running
        if "progress" in self.reports:
            now = after["progress"].reshape(count).double()
            self.progress = torch.where(self.running, now, self.progress)
        self.running &= ~after["done"].reshape(count)

    def episodes(self, situation: TensorDictBase) -> Episodes:
        return Episodes(
            self.returns,
            self.lengths,
            self.successes & ~self.failed if "success" in self.reports else None,
            self.progress if "progress" in self.reports else None,
            self.failed,
            situation,
        )


def _plan(actor: Any, step: TensorDictBase, rows: Tensor) -> TensorDictBase:
    """Acts in the environments ``rows``; in the others, zeros stand for action and plan."""
    count = step.batch_size[0]
    if len(rows) == count:
        return actor(step)
    part = actor(step.select(*actor.in_keys)[rows])
    for key in actor.out_keys:
        value = part[key]
        full = value.new_zeros(count, *value.shape[1:])
        full[rows] = value
        step.set(key, full)
    return step


def play(env: EnvBase, actor: Any, max_steps: int) -> TensorDictBase:
    """One episode in each environment [B], every plan kept; for pictures of a few.

    Returns:
        The rollout [B, T].

    Raises:
        InputError: if a worker process dies.
    """
    with _failures(env):
        return env.rollout(max_steps, actor, break_when_any_done=False, break_when_all_done=True)


@contextmanager
def _failures(env: EnvBase) -> Iterator[None]:
    """What an environment, its worker or a planner's fast mode fails at, in one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # an environment's, of any kind
        here = "evaluation.workers=0 shows an environment's error in this process, "
        raise InputError(
            f"an environment or the planner failed during evaluation ({first_line(error)}); "
            f"{here if _in_workers(env) else ''}evaluation.compile=none plans the plain way"
        ) from error


def _in_workers(env: EnvBase) -> bool:
    while isinstance(env, TransformedEnv):
        env = env.base_env
    return isinstance(env, ParallelEnv)
