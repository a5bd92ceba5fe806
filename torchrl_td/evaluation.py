"""Plays a task with a planner and scores it as D4RL does."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase, set_exploration_type
from torchrl.envs.utils import ExplorationType

from torchrl_td.config import Config, TaskConfig
from torchrl_td.envs import make_env, opened
from torchrl_td.errors import TDError
from torchrl_td.planner import TDPlannerActor

_MAX_ENVS = 50  # environments stepped at once; more episodes are played in turns


@dataclass
class EvaluationResult:
    """What one planner setting scored.

    Attributes:
        refine_steps: denoising steps the plans were refined by; 0 is the generator alone.
        returns: undiscounted return of every episode.
        lengths: steps of every episode.
        score_mean: mean of the normalised score, 100 (R − min) / (max − min); the return's
            where the task has no references.
        score_std: its standard deviation over episodes.
        episodes: how many.
        seconds_per_plan_median: of single plans (batch 1) on this machine.
        seconds_per_plan_p95: likewise.
        success_rate: share of episodes with a success, where the environment reports it.
    """

    refine_steps: int
    returns: list[float]
    lengths: list[int]
    score_mean: float
    score_std: float
    episodes: int
    seconds_per_plan_median: float
    seconds_per_plan_p95: float
    success_rate: float | None = None

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


def evaluate(actor: TDPlannerActor, config: Config, episodes: int | None = None) -> EvaluationResult:
    """Plays whole episodes in a batch of environments.

    Args:
        actor: the planner.
        config: the task and the evaluation's settings.
        episodes: how many; ``None`` takes the settings'.

    Raises:
        TDError: if an environment dies.
    """
    episodes = config.evaluation.episodes if episodes is None else episodes
    device = actor.normalizer.loc.device
    mode = ExplorationType.DETERMINISTIC
    if not config.evaluation.deterministic:
        mode = ExplorationType.RANDOM
    returns: list[float] = []
    lengths: list[int] = []
    successes: list[float] = []
    last = None
    with set_exploration_type(mode), torch.no_grad():
        while len(returns) < episodes:
            count = min(episodes - len(returns), _MAX_ENVS)
            env = make_env(
                config.task,
                count,
                target_return=config.evaluation.target_return,
                workers=config.evaluation.workers,
                seed=config.evaluation.seed + len(returns),
                device=device,
                primer=actor.make_tensordict_primer(),
            )
            with opened(env):
                rollout = play(env, actor, config.task.max_episode_steps)
            summary = summarize_rollout(rollout)
            returns += summary["returns"]
            lengths += summary["lengths"]
            successes += summary["successes"]
            last = rollout[:1, -1]
        assert last is not None
        seconds = time_plans(actor, last)
    score = normalized_score(np.asarray(returns), config.task)
    return EvaluationResult(
        refine_steps=actor.planner.refiner.refine_steps,
        returns=returns,
        lengths=lengths,
        score_mean=float(score.mean()),
        score_std=float(score.std()),
        episodes=len(returns),
        seconds_per_plan_median=float(np.median(seconds)),
        seconds_per_plan_p95=float(np.percentile(seconds, 95)),
        success_rate=float(np.mean(successes)) if successes else None,
    )


def play(env: EnvBase, actor: TDPlannerActor, max_steps: int) -> TensorDictBase:
    """One episode in each environment [B]; those that end early wait for the rest.

    Returns:
        The rollout [B, T].

    Raises:
        TDError: if a worker process dies.
    """
    try:
        return env.rollout(
            max_steps, actor, break_when_any_done=False, break_when_all_done=True
        )
    except (RuntimeError, EOFError, ConnectionError, BrokenPipeError) as error:
        if isinstance(error, TDError):
            raise
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TDError(
            f"an environment failed during evaluation ({first_line}); use evaluation.workers=0 "
            f"to see the error in this process"
        ) from error


def summarize_rollout(rollout: TensorDictBase) -> dict[str, list]:
    """Return, length and success of each environment's first episode in a rollout [B, T]."""
    done = rollout["next", "done"].squeeze(-1)  # [B, T]
    steps = done.shape[1]
    end = torch.where(done.any(1), done.long().argmax(1), steps - 1)
    rows = torch.arange(done.shape[0], device=done.device)
    summary = {
        "returns": rollout["next", "episode_reward"].squeeze(-1)[rows, end].tolist(),
        "lengths": (end + 1).tolist(),
        "successes": [],
    }
    success = rollout.get(("next", "success"), None)
    if success is not None:
        played = torch.arange(steps, device=done.device) <= end.unsqueeze(-1)
        won = (success.reshape(*done.shape).bool() & played).any(1)
        summary["successes"] = won.float().tolist()
    return summary


def time_plans(actor: TDPlannerActor, step: TensorDictBase, count: int = 30) -> list[float]:
    """Seconds of single plans from a real situation (batch 1), the first few left out.

    Args:
        actor: the planner.
        step: one step of a rollout, batch size [1], with the planner's inputs.
        count: plans to time.
    """
    inputs = step.select(*actor.in_keys)
    # A followed plan is no plan: count as if it were due at every call.
    cuda = actor.normalizer.loc.device.type == "cuda"
    seconds = []
    for i in range(count + 3):
        start = time.perf_counter()
        actor(inputs.copy())
        if cuda:
            torch.cuda.synchronize()
        if i >= 3:
            seconds.append(time.perf_counter() - start)
    return seconds
