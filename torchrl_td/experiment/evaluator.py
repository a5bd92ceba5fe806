"""Evaluations during a run: scores, the best checkpoint so far, pictures of plans."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torchrl import torchrl_logger

from torchrl_td.config import Config
from torchrl_td.experiment.acting import make_actor
from torchrl_td.experiment.evaluate import EvaluationResult, evaluate
from torchrl_td.experiment.logging import Metrics
from torchrl_td.experiment.plotting import skipped_on_error
from torchrl_td.experiment.rendering import play_one, show_plans, show_video
from torchrl_td.modules.trajectory_diffuser import TrajectoryDiffuser
from torchrl_td.training.random_state import own_randomness


class Evaluator:
    """Plays a run's task with what it has learned.

    Args:
        config: the run's settings.
        folder: its output folder, for pictures.
        action_spec: the environment's.
        device: where to plan.

    Attributes:
        best_score: of the evaluations during training.
        evaluations_since_best: how many have not beaten it.
    """

    def __init__(
        self, config: Config, folder: Path, action_spec: Any, device: torch.device
    ) -> None:
        self.config, self.folder = config, folder
        self.action_spec, self.device = action_spec, device
        self.best_score: float | None = None
        self.evaluations_since_best = 0

    def actor(self, model: Any, refine_steps: int | None = None) -> Any:
        """The policy that the settings describe, or the planner with other refine steps."""
        return make_actor(model, self.config, self.action_spec.to(self.device), refine_steps)

    def score(
        self,
        model: Any,
        refine_steps: int | None = None,
    ) -> EvaluationResult:
        """Evaluates what is learned, a planner with other refine steps if wanted.

        Raises:
            InputError: if an environment fails.
        """
        return evaluate(self.actor(model, refine_steps), self.config)

    def record(self, result: EvaluationResult, step: int, metrics: Metrics) -> None:
        """Writes a score down.

        Raises:
            InputError: if the metrics' file cannot be written.
        """
        name = result.name
        values = {
            f"evaluation/score/{name}": result.score_mean,
            f"evaluation/score_std/{name}": result.score_std,
            f"time/seconds_per_plan/{name}": result.seconds_per_plan_median,
        }
        if result.success_rate is not None:
            values[f"evaluation/success_rate/{name}"] = result.success_rate
        metrics.write(step, values)
        torchrl_logger.info(
            f"step {step}: {name} scores {result.score_mean:.1f} ± "
            f"{result.score_std:.1f} over {result.episodes} episodes, "
            f"{1e3 * result.seconds_per_plan_median:.1f} ms a plan"
        )

    def tabulate(self, results: list[EvaluationResult], step: int, metrics: Metrics) -> None:
        """Shows a run's results in its logger."""
        shown = ("name", "refine_steps", "score_mean", "score_std", "episodes", "success_rate")
        times = ("seconds_per_plan_median", "seconds_per_plan_p95")
        rows = [{key: vars(result)[key] for key in (*shown, *times)} for result in results]
        metrics.table("evaluation/results", rows, step)

    def beats(self, result: EvaluationResult) -> bool:
        """Whether a score is the best so far; one that is not a number never is."""
        if math.isnan(result.score_mean):
            return False
        return self.best_score is None or result.score_mean > self.best_score

    def count(self, result: EvaluationResult) -> None:
        """Notes an evaluation during training."""
        if self.beats(result):
            self.best_score, self.evaluations_since_best = result.score_mean, 0
        else:
            self.evaluations_since_best += 1

    def out_of_patience(self) -> bool:
        """Whether ``training.patience`` evaluations in a row brought nothing better."""
        patience = self.config.training.patience
        return patience is not None and self.evaluations_since_best >= patience

    def show(
        self,
        model: Any,
        step: int,
        metrics: Metrics,
        name: str,
        video: bool = False,
    ) -> None:
        """Draws plans of an episode into the file ``name``, and, if wanted, the episode.

        What cannot be drawn is left out with a warning.
        """
        if not isinstance(model, TrajectoryDiffuser):
            return  # there are no plans to draw
        plans, film = self.folder / name, self.folder / "rollout.gif"
        with skipped_on_error(plans):
            with own_randomness(self.config.evaluation.seed):
                rollout = play_one(self.actor(model), self.config)
            with skipped_on_error(plans):
                show_plans(rollout, self.config.task, plans)
                metrics.picture("evaluation/plans", plans, step)
            with skipped_on_error(film):
                if video and show_video(rollout, self.config, film):
                    metrics.video("evaluation/rollout", film, step)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "best_score": self.best_score,
            "evaluations_since_best": self.evaluations_since_best,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        self.best_score = state["best_score"]
        self.evaluations_since_best = state["evaluations_since_best"]
