"""One process' share of a run: trains, watches, saves, evaluates."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl import torchrl_logger
from torchrl.data import Bounded
from tqdm import tqdm

from torchrl_td.checkpoint import describe, load_about, load_payload, save_checkpoint
from torchrl_td.config import Config
from torchrl_td.distributed import World
from torchrl_td.errors import TDError
from torchrl_td.evaluation import EvaluationResult, evaluate
from torchrl_td.metrics import Metrics
from torchrl_td.modules.build import TrajectoryDiffuser
from torchrl_td.planner import TDPlannerActor
from torchrl_td.plotting import plot_training
from torchrl_td.random_state import own_randomness
from torchrl_td.results import summarize
from torchrl_td.run_folder import write_json
from torchrl_td.showing import play_one, show_plans, show_video
from torchrl_td.signals import stop_signals
from torchrl_td.training import Trainer

_SIGNAL_STEPS = 10  # steps between asking the other processes whether one was told to stop


class Session:
    """A trainer with its folder, metrics and checkpoints.

    Args:
        config: the run's settings.
        folder: its output folder.
        episodes: the raw dataset [N].
        dataset: its identity and returns, for checkpoints and results.
        action_spec: the environment's.
        device: where to train and plan.
        world: this process' place among those of the run.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        episodes: TensorDictBase,
        dataset: Mapping[str, Any],
        action_spec: Any,
        device: torch.device,
        world: World,
    ) -> None:
        self.config, self.folder, self.device, self.world = config, folder, device, world
        self.dataset = dict(dataset)
        self.action_spec = action_spec
        self.trainer = Trainer(config, episodes, device, world)
        self.actor(self.trainer.model)  # settings that cannot plan are refused before training
        self.metrics: Metrics | None = None  # the first process' alone
        self.seconds = 0.0
        self.best_score: float | None = None
        self.evaluations_since_best = 0
        self.evaluation_due = False
        self.stopped_by: int | None = None
        self._started = time.perf_counter()
        self._logged = (0, 0.0)  # step and seconds
        self._evaluating = False

    def restore(self, checkpoint: Path) -> None:
        """Continues from a checkpoint of the same run.

        Raises:
            TDError: if the dataset is not the one that the run was started on.
        """
        before = load_about(checkpoint)["dataset"]
        if before["hash"] != self.dataset["hash"]:
            raise TDError(
                f"the dataset {self.dataset['source']!r} is not the one this run was started on "
                f"({before['transitions']} transitions then, {self.dataset['transitions']} now, or "
                f"other values); restore it, or start anew in another output_dir"
            )
        state = load_payload(checkpoint, "training", "cpu")
        self.trainer.load_state_dict(state["trainer"])
        self.seconds = state["seconds"]
        self.best_score = state["best_score"]
        self.evaluations_since_best = state["evaluations_since_best"]
        self.evaluation_due = state["evaluation_due"]

    def open(self, run_id: str) -> None:
        """Opens the metrics; rows of steps that will be taken again are dropped."""
        step = self.trainer.step
        self.metrics = Metrics(self.config, self.folder, run_id, step if step else None)

    def train(self) -> bool:
        """Trains to the last step; False if it was told to stop before.

        Ctrl-C and SIGTERM save a checkpoint first.
        """
        settings, trainer = self.config.training, self.trainer
        self._started = time.perf_counter() - self.seconds
        self._logged = (trainer.step, self.seconds)
        bar = tqdm(
            total=settings.steps,
            initial=trainer.step,
            desc="training",
            unit="step",
            disable=not (self.config.progress and self.world.first),
        )
        saved = trainer.step
        with stop_signals(self._on_signal), bar:
            if self.evaluation_due:
                self._evaluate()
            while not self._done():
                trainer.train_step()
                bar.update()
                if self._after_step(bar):
                    saved = trainer.step
            if saved != trainer.step or self.evaluation_due:
                trainer.check_health()
                self.save()
        finished = trainer.step >= settings.steps or self._out_of_patience()
        if not finished and self.metrics is not None:
            self.metrics.close()
            torchrl_logger.info(
                f"stopped at step {trainer.step} of {settings.steps}; continue with "
                f"resume={self.folder}"
            )
        return finished

    def finish(self) -> dict[str, Any]:
        """Evaluates generator and refined planner, writes results and pictures.

        Raises:
            TDError: if the environment fails; the trained model is safe in its checkpoint.
        """
        assert self.metrics is not None
        model = self.trainer.planner_model()
        results = []
        for refine_steps in sorted({0, self.config.planner.refine_steps}):
            try:
                result = evaluate(self.actor(model, refine_steps), self.config)
            except TDError as error:
                raise TDError(
                    f"{error}; the training is saved: resume={self.folder} evaluates it again"
                ) from error
            results.append(result)
            self._log_evaluation(result)
        if self.config.training.evaluate_every and self._is_best(results[-1]):
            self.save(best=True)
        summary = self.summary(results)
        write_json(self.folder / "results.json", summary)
        plot_training(self.metrics.file, self.folder / "training.png")
        self.metrics.picture("training", self.folder / "training.png", self.trainer.step)
        self._show(model, "plans.png", video=self.config.logger.video)
        self.metrics.close()
        return summary

    def save(self, best: bool = False) -> None:
        """Writes a checkpoint."""
        if not self.world.first:
            return
        self._clock()
        spec = self.action_spec.space
        about = describe(
            self.config,
            self.trainer.step,
            self.trainer.model.normalizer.loc.shape[0],
            spec.low,
            spec.high,
            self.dataset,
        )
        training = {
            "trainer": self.trainer.state_dict(),
            "seconds": self.seconds,
            "best_score": self.best_score,
            "evaluations_since_best": self.evaluations_since_best,
            "evaluation_due": self.evaluation_due,
        }
        save_checkpoint(
            self.folder / "checkpoint",
            self.trainer.step,
            about,
            self.trainer.planner_state(),
            training,
            keep=self.config.training.keep_checkpoints,
            best=best,
        )

    def summary(self, results: list[EvaluationResult]) -> dict[str, Any]:
        """What ``results.json`` holds."""
        summary = summarize(self.trainer, self.dataset, self.seconds, results)
        return summary | ({} if self.stopped_by is None else {"stopped_by": self.stopped_by})

    def actor(self, model: TrajectoryDiffuser, refine_steps: int | None = None) -> TDPlannerActor:
        """The planner that the settings describe, or the same with other refine steps."""
        config = copy.deepcopy(self.config)
        if refine_steps is not None:
            config.planner.refine_steps = refine_steps
        if config.planner.refine_steps == 0:
            config.planner.evaluations, config.planner.candidates = None, 1
        spec = Bounded(self.action_spec.space.low, self.action_spec.space.high)
        actor = TDPlannerActor.from_model(model, config, spec.to(self.device))
        return actor.compile(config.evaluation.compile)

    def _done(self) -> bool:
        settings, step = self.config.training, self.trainer.step
        if step >= min(settings.steps, settings.stop_after or settings.steps):
            return True
        stopped = self.stopped_by is not None
        if self.world.size > 1:
            asked = step % _SIGNAL_STEPS == 0
            stopped = asked and self.world.agree(stopped, self.device)
        return stopped or self._out_of_patience()

    def _after_step(self, bar: tqdm) -> bool:
        """Logs, validates, evaluates and saves what is due; True if it saved."""
        settings, step = self.config.training, self.trainer.step

        def due(every: int) -> bool:
            return every > 0 and (step % every == 0 or step == settings.steps)

        if due(settings.log_every):
            self.trainer.check_health()
            self._log(bar)
        if due(settings.validate_every) and self.metrics is not None:
            losses = self.trainer.validate()
            self.metrics.write(step, {f"validation/{name}": v for name, v in losses.items()})
        if due(settings.evaluate_every) and step != settings.steps:
            self._evaluate()
        if not due(settings.checkpoint_every) or self.evaluation_due:
            return False
        self.trainer.check_health()
        self.save()
        return True

    def _log(self, bar: tqdm) -> None:
        means = self.trainer.read_metrics()
        if self.metrics is None:
            return
        self._clock()
        step, seconds = self._logged
        self._logged = (self.trainer.step, self.seconds)
        values = {f"train/{name}": value for name, value in means.items()}
        values["lr/all"] = self.trainer.learning_rate()
        values["time/seconds"] = self.seconds
        passed = max(self.seconds - seconds, 1e-9)
        values["time/steps_per_second"] = (self.trainer.step - step) / passed
        self.metrics.write(self.trainer.step, values)
        shown = {k.removeprefix("loss_"): f"{v:.4f}" for k, v in means.items() if "loss_" in k}
        bar.set_postfix(shown, refresh=False)

    def _evaluate(self) -> None:
        """Plays the task; an environment that fails costs this evaluation, not the run."""
        if self.world.first:
            self.evaluation_due, self._evaluating = True, True
            try:
                model = self.trainer.planner_model()
                result = evaluate(self.actor(model), self.config)
                self._log_evaluation(result)
                if self._is_best(result):
                    self.best_score, self.evaluations_since_best = result.score_mean, 0
                    self.evaluation_due = False
                    self.save(best=True)
                else:
                    self.evaluations_since_best += 1
                if self.config.logger.pictures:
                    self._show(model, f"plans-{self.trainer.step}.png")
            except TDError as error:
                torchrl_logger.warning(f"step {self.trainer.step}: no evaluation: {error}")
            except KeyboardInterrupt:
                if self.stopped_by is None:
                    raise
                return  # still due: the resumed run begins with it
            finally:
                self._evaluating = False
        self.evaluation_due = False
        if self.world.agree(self._out_of_patience(), self.device):
            self.evaluations_since_best = self.config.training.patience or 0

    def _is_best(self, result: EvaluationResult) -> bool:
        return self.best_score is None or result.score_mean > self.best_score

    def _out_of_patience(self) -> bool:
        patience = self.config.training.patience
        return patience is not None and self.evaluations_since_best >= patience

    def _log_evaluation(self, result: EvaluationResult) -> None:
        assert self.metrics is not None
        name = "generator" if result.refine_steps == 0 else "refined"
        values = {
            f"eval/score/{name}": result.score_mean,
            f"eval/score_std/{name}": result.score_std,
            f"time/seconds_per_plan/{name}": result.seconds_per_plan_median,
        }
        if result.success_rate is not None:
            values[f"eval/success_rate/{name}"] = result.success_rate
        self.metrics.write(self.trainer.step, values)
        torchrl_logger.info(
            f"step {self.trainer.step}: {name} planner scores {result.score_mean:.1f} ± "
            f"{result.score_std:.1f} over {result.episodes} episodes, "
            f"{1e3 * result.seconds_per_plan_median:.1f} ms a plan"
        )

    def _show(self, model: TrajectoryDiffuser, name: str, video: bool = False) -> None:
        assert self.metrics is not None
        with own_randomness(self.config.evaluation.seed):
            rollout = play_one(self.actor(model), self.config)
        show_plans(rollout, self.config.task, self.folder / name)
        self.metrics.picture("plans", self.folder / name, self.trainer.step)
        if video and show_video(rollout, self.config, self.folder / "rollout.gif"):
            self.metrics.video("rollout", self.folder / "rollout.gif", self.trainer.step)

    def _clock(self) -> None:
        self.seconds = time.perf_counter() - self._started

    def _on_signal(self, number: int) -> None:
        self.stopped_by = number
        if self._evaluating:  # which may take minutes
            raise KeyboardInterrupt
