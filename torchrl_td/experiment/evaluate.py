"""Plays a task with a planner or another policy and scores it as D4RL does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torchrl import torchrl_logger
from torchrl.envs import set_exploration_type
from torchrl.envs.utils import ExplorationType
from torchrl.modules.utils import get_primers_from_module

from torchrl_td.actors.td_planner_actor import TDPlannerActor
from torchrl_td.config import Config, TaskConfig
from torchrl_td.envs.make import make_env, opened, reports
from torchrl_td.experiment.play import Episodes, play_episodes
from torchrl_td.inference.openvino_planner import OpenVINOPlanner

TIMED_PLANS = 30  # after an evaluation
_MAX_ENVS = 50  # environments stepped at once; more episodes are played in turns


@dataclass
class EvaluationResult:
    """What one planner setting scored.

    Attributes:
        name: ``generator`` or ``refined`` of a planner, else the algorithm's.
        refine_steps: denoising steps the plans were refined by; 0 is the generator alone, and
            ``None`` where there are no plans.
        returns: undiscounted return of every episode.
        lengths: steps of every episode.
        score_mean: mean of the normalised score, 100 (R − min) / (max − min); the return's
            where the task has no references. R is the return, or what ``task.score_key`` names.
        score_std: its standard deviation over episodes.
        episodes: how many.
        seconds_per_plan_median: of single plans or actions (batch 1) on this machine.
        seconds_per_plan_p95: likewise.
        success_rate: share of episodes with a success, where the environment reports it.
        scores: normalised score of every episode.
        failed: how many episodes broke off because the environment gave NaN or Inf: no success
            each, and paid what they had been paid before.
        compile: how the plans were run, as in :meth:`torchrl_td.TDPlannerActor.compile`.
    """

    name: str
    refine_steps: int | None
    returns: list[float]
    lengths: list[int]
    score_mean: float
    score_std: float
    episodes: int
    seconds_per_plan_median: float
    seconds_per_plan_p95: float
    success_rate: float | None = None
    scores: list[float] = field(default_factory=list)
    failed: int = 0
    compile: str = "none"

    def to_dict(self) -> dict[str, Any]:
        """For ``results.json``."""
        return asdict(self)


def normalized_score(returns: Any, task: TaskConfig) -> Any:
    """D4RL's score of returns: 0 is a random policy's, 100 the reference's.

    Args:
        returns: a number or an array.
        task: its ``score_min`` and ``score_max``; without them returns come back as they are.

    Examples:
        >>> from torchrl_td.config import TaskConfig
        >>> hopper = TaskConfig(name="hopper", env="Hopper-v5", score_min=-20.0, score_max=3180.0)
        >>> normalized_score(1580.0, hopper)
        50.0
    """
    if task.score_min is None or task.score_max is None:
        return returns
    return 100.0 * (returns - task.score_min) / (task.score_max - task.score_min)


def evaluate(actor: Any, config: Config, episodes: int | None = None) -> EvaluationResult:
    """Plays whole episodes in batches of environments.

    Episode i is the one that Gymnasium's ``env.reset(seed=evaluation.seed + i)`` starts, whatever
    the number of workers. Sampling noise, if any, is drawn from ``evaluation.seed`` too; the
    caller's random state is left as it was.

    Args:
        actor: the planner, or another algorithm's policy.
        config: the task and the evaluation's settings.
        episodes: how many; ``None`` takes the settings'.

    Raises:
        InputError: if an environment dies.
    """
    settings, task = config.evaluation, config.task
    episodes = settings.episodes if episodes is None else episodes
    device = actor.normalizer.loc.device
    mode = ExplorationType.DETERMINISTIC if settings.deterministic else ExplorationType.RANDOM
    at_once = min(settings.workers or _MAX_ENVS, _MAX_ENVS)
    parts: list[Episodes] = []
    with set_exploration_type(mode), torch.no_grad(), _seeded(settings.seed, device):
        for first in range(0, episodes, at_once):
            seeds = range(settings.seed + first, settings.seed + min(first + at_once, episodes))
            env = make_env(
                task,
                len(seeds),
                target_return=settings.target_return,
                workers=settings.workers,
                seeds=seeds,
                device=device,
                primer=get_primers_from_module(actor, warn=False),
            )
            with opened(env):
                parts.append(play_episodes(env, actor, task.max_episode_steps, reports(task)))
        seconds = time_plans(actor, parts[-1].situation, TIMED_PLANS)
    return _result(actor, config, parts, seconds)


def _result(
    actor: Any, config: Config, parts: list[Episodes], seconds: list[float]
) -> EvaluationResult:
    plans = _plans(actor)
    refine_steps = actor.planner.refiner.refine_steps if plans else None
    name = "generator" if refine_steps == 0 else "refined"
    returns = torch.cat([part.returns for part in parts])
    successes = [part.successes for part in parts if part.successes is not None]
    progress = [part.progress for part in parts if part.progress is not None]
    failed = int(torch.cat([part.failed for part in parts]).sum())
    if failed:
        torchrl_logger.warning(
            f"{failed} of {len(returns)} episodes of {config.task.env} broke off at NaN or Inf in "
            f"an observation or reward; they count as failed"
        )
    scores = normalized_score(torch.cat(progress) if progress else returns, config.task)
    return EvaluationResult(
        name=name if config.algorithm.name == "trajectory_diffuser" else config.algorithm.name,
        refine_steps=refine_steps,
        returns=returns.tolist(),
        lengths=torch.cat([part.lengths for part in parts]).tolist(),
        score_mean=float(scores.mean()),
        score_std=float(scores.std(correction=0)),
        episodes=len(returns),
        seconds_per_plan_median=float(np.median(seconds)),
        seconds_per_plan_p95=float(np.percentile(seconds, 95)),
        success_rate=float(torch.cat(successes).double().mean()) if successes else None,
        scores=scores.tolist(),
        failed=failed,
        compile=actor.compiled_mode if plans else "none",
    )


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draws from ``seed``, and puts the random state back at the end."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def time_plans(actor: Any, step: TensorDictBase, count: int) -> list[float]:
    """Seconds of single plans or actions (batch 1) from a real situation, the first few left out.

    Args:
        actor: the policy.
        step: one step of an episode, batch size [1], with the policy's inputs.
        count: plans to time.
    """
    device = actor.normalizer.loc.device
    situations, settled = _due_plans(actor, step) if _plans(actor) else (lambda i: step.copy(), 3)
    seconds = []
    for i in range(count + settled):
        inputs = situations(i)
        start = time.perf_counter()
        actor(inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if i >= settled:
            seconds.append(time.perf_counter() - start)
    return seconds


def _plans(actor: Any) -> bool:
    return isinstance(actor, TDPlannerActor)


def _due_plans(
    actor: TDPlannerActor, step: TensorDictBase
) -> tuple[Callable[[int], TensorDictBase], int]:
    """Situations by their number in which a plan is due, and how many to leave out."""
    steps_key = next(key for key in actor.in_keys if isinstance(key, tuple) and key[-1] == "steps")
    horizon = actor.receding_horizon
    every = horizon.replan_every
    start_step = step[steps_key] - step[steps_key] % every
    runner = horizon.runner
    if isinstance(runner, OpenVINOPlanner) and runner.mode == "openvino":
        runner.patience = 0  # as the plans before, though of another batch size
    # Until then programs are compiled and graphs captured, a warm start's second draft last.
    settled = max(3, getattr(runner, "warm_up", 0))
    settled *= 1 if horizon.warm_start == "none" else horizon.refresh_every
    # A plan is due at each of these steps, and now and then a fresh draft.
    return lambda i: step.copy().set(steps_key, start_step + i * every), settled
