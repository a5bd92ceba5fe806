"""One process' share of a run: trains, watches, saves, evaluates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl import torchrl_logger

from torchrl_td.advice import resume
from torchrl_td.checkpoint import (
    Start,
    describe,
    described_action,
    load_about,
    load_payload,
    save_checkpoint,
)
from torchrl_td.config import Config
from torchrl_td.errors import InputError
from torchrl_td.experiment.acting import variants
from torchrl_td.experiment.evaluate import EvaluationResult
from torchrl_td.experiment.evaluator import Evaluator
from torchrl_td.experiment.logging import Metrics
from torchrl_td.experiment.plotting import plot_training, skipped_on_error
from torchrl_td.experiment.progress import Progress
from torchrl_td.experiment.results import summarize
from torchrl_td.experiment.resume import describe_training_on
from torchrl_td.experiment.run_folder import write_json
from torchrl_td.experiment.signals import Stop
from torchrl_td.training.distributed import World
from torchrl_td.training.trainer import Trainer

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
        start: weights of another run to start from.
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
        start: Start | None = None,
    ) -> None:
        self.config, self.folder, self.device, self.world = config, folder, device, world
        self.dataset = dict(dataset)
        self.action_spec = action_spec
        self.evaluator = Evaluator(config, folder, action_spec, device)
        self.action = described_action(action_spec)
        bounds = (torch.tensor(self.action["action_low"]), torch.tensor(self.action["action_high"]))
        self.trainer = Trainer(config, episodes, device, world, bounds, start)
        self.origin = {} if start is None else {"init_from": start.origin}
        self.evaluator.actor(self.trainer.model)  # refuses what cannot plan before training
        self.metrics: Metrics | None = None  # the first process' alone
        self.progress = Progress(config, world.first)
        self.evaluation_due = False
        self.stop = Stop()

    def restore(self, checkpoint: Path) -> None:
        """Continues from a checkpoint of the same run.

        Raises:
            InputError: if the dataset is not the one that the run was started on.
        """
        about = load_about(checkpoint)
        before = about["dataset"]
        if before["hash"] != self.dataset["hash"]:
            raise InputError(
                f"the dataset {self.dataset['source']!r} is not the one this run was started on "
                f"({before['transitions']} transitions then, {self.dataset['transitions']} now, or "
                f"other values); restore it, or start anew in another output_dir"
            )
        self._check_units(load_payload(checkpoint, "planner", "cpu"))
        state = load_payload(checkpoint, "training", "cpu")
        self.trainer.load_state_dict(state["trainer"])
        self.progress.seconds = state["seconds"]
        self.evaluator.load_state_dict(state)
        self.evaluation_due = state["evaluation_due"]
        if (steps := about["config"]["training"]["steps"]) < self.config.training.steps:
            self._train_on(steps)

    def _check_units(self, weights: Mapping[str, Any]) -> None:
        """Refuses weights that learnt the actions in other units than are fitted now."""
        normalizer = self.trainer.model.normalizer
        for name in ("action_loc", "action_scale"):
            before, now = weights.get(f"normalizer.{name}"), getattr(normalizer, name)
            if (before is None) != (now is None) or not (
                before is None or torch.allclose(before, now.cpu())
            ):
                raise InputError(
                    f"the run in {self.folder} learnt its actions in other units: it was started "
                    f"by an earlier version; start anew in another output_dir"
                )

    def _train_on(self, before: int) -> None:
        """Goes beyond the ``before`` steps that a run was to have, as if they had been more."""
        settings, step = self.config.training, self.trainer.step
        if step == before and settings.evaluate_every and step % settings.evaluate_every == 0:
            self.evaluation_due = True  # it was the last step, whose score is counted otherwise
        if self.world.first:
            torchrl_logger.info(describe_training_on(self.config, step, before))
        self.save()  # from now on it is a run of so many steps, whatever interrupts it

    def open(self, run_id: str) -> None:
        """Opens the metrics; rows of steps that will be taken again are dropped."""
        step = self.trainer.step
        self.metrics = Metrics(self.config, self.folder, run_id, step if step else None)

    def train(self) -> bool:
        """Trains to the last step; False if it was told to stop before.

        Told so by ``stop``, it saves a checkpoint first.
        """
        trainer, steps = self.trainer, self.config.training.steps
        self.progress.start(trainer.step)
        saved = trainer.step
        try:
            if self.evaluation_due:
                self._evaluate()
            while not self._done():
                trainer.train_step()
                self.progress.step()
                if self._after_step():
                    saved = trainer.step
            if saved != trainer.step or self.evaluation_due:
                self._checkpoint()
        finally:
            self.progress.close()
        finished = trainer.step >= steps or self.evaluator.out_of_patience()
        if finished and not self.stop.asked:
            return True
        if self.metrics is not None:
            self.metrics.close()
            torchrl_logger.info(
                f"stopped at step {trainer.step} of {steps}; continue with {resume(self.folder)}"
            )
        return False

    def finish(self) -> dict[str, Any]:
        """Evaluates what is trained, writes results and pictures.

        Told to stop, it leaves out what is not done.

        Raises:
            InputError: if the environment fails; the trained model is safe in its checkpoint.
        """
        assert self.metrics is not None
        model, step = self.trainer.planner_model(), self.trainer.step
        results: list[EvaluationResult] = []
        for refine_steps in variants(self.config) if self.config.evaluation.episodes else ():
            result = self._final_score(model, refine_steps)
            if result is None:
                self.metrics.close()
                torchrl_logger.info(
                    f"stopped during the evaluation; the training is saved: "
                    f"{resume(self.folder)} evaluates it again"
                )
                return self.summary([])
            self.evaluator.record(result, step, self.metrics)
            results.append(result)
        if self.config.training.evaluate_every and self.evaluator.beats(results[-1]):
            self.save(best=True)
        unplayed = {} if results else self._unplayed()
        write_json(self.folder / "results.json", self.summary(results) | unplayed)
        self.evaluator.tabulate(results, step, self.metrics)
        if not self.stop.asked:
            with self.stop.at_once():
                self._show(model, self.metrics)
        self.metrics.close()
        return self.summary(results) | unplayed

    def save(self, best: bool = False) -> None:
        """Writes a checkpoint."""
        if not self.world.first:
            return
        width = self.trainer.model.normalizer.loc.shape[0]
        step, dataset = self.trainer.step, self.dataset
        about = describe(self.config, step, width, self.action, dataset)
        training = {
            "trainer": self.trainer.state_dict(),
            "seconds": self.progress.seconds,
            **self.evaluator.state_dict(),
            "evaluation_due": self.evaluation_due,
        }
        save_checkpoint(
            self.folder / "checkpoint",
            self.trainer.step,
            about | self.origin,
            self.trainer.planner_state(),
            training,
            keep=self.config.training.keep_checkpoints,
            best=best,
        )

    def summary(self, results: list[EvaluationResult]) -> dict[str, Any]:
        """What ``results.json`` holds."""
        summary = summarize(self.trainer, self.dataset, self.progress.seconds, results)
        stopped = {"stopped_by": self.stop.signal} if self.stop.asked else {}
        return summary | self.origin | stopped

    def _unplayed(self) -> dict[str, Any]:
        """What ``results.json`` says in place of scores."""
        return {"nothing_played": "evaluation.episodes=0", "validation": self.trainer.validate()}

    def _done(self) -> bool:
        settings, step = self.config.training, self.trainer.step
        if step >= min(settings.steps, settings.stop_after or settings.steps):
            return True
        stopped = self.stop.asked
        if self.world.size > 1:
            asked = step % _SIGNAL_STEPS == 0
            stopped = asked and self.world.agree(stopped, self.device)
        return stopped or self.evaluator.out_of_patience()

    def _after_step(self) -> bool:
        """Logs, validates, evaluates and saves what is due; True if it saved."""
        settings, step = self.config.training, self.trainer.step

        def due(every: int) -> bool:
            return every > 0 and (step % every == 0 or step == settings.steps)

        if due(settings.log_every):
            self.trainer.check_health()
            self._log()
        if due(settings.validate_every) and self.metrics is not None:
            losses = self.trainer.validate()
            self.metrics.write(step, {f"validation/{name}": v for name, v in losses.items()})
        if due(settings.evaluate_every) and step != settings.steps:
            self._evaluate()
        if not due(settings.checkpoint_every) or self.evaluation_due:
            return False
        self._checkpoint()
        return True

    def _checkpoint(self) -> None:
        self.trainer.check_health()
        self.progress.clock()
        self.save()
        self.progress.saved(self.trainer.step)

    def _log(self) -> None:
        means = self.trainer.read_metrics()
        if self.metrics is None:
            return
        values = {f"train/{name}": value for name, value in means.items()}
        values["train/learning_rate"] = self.trainer.learning_rate()
        rate = self.progress.rate(self.trainer.step)
        values |= {"time/seconds": self.progress.seconds, "time/steps_per_second": rate}
        self.metrics.write(self.trainer.step, values)
        self.progress.losses(means)

    def _evaluate(self) -> None:
        """Plays the task in the first process; the others wait for it."""
        self.evaluation_due = False
        if self.metrics is not None:
            self._play(self.metrics)
        if self.world.agree(self.evaluator.out_of_patience(), self.device):
            self.evaluator.evaluations_since_best = self.config.training.patience or 0

    def _play(self, metrics: Metrics) -> None:
        """An environment that fails costs this evaluation, not the run; a signal puts it off."""
        model, step = self.trainer.planner_model(), self.trainer.step
        result, self.evaluation_due = None, True
        try:
            with self.stop.at_once():
                result = self.evaluator.score(model)
        except InputError as error:
            if not self.stop.asked:  # else it may be what the signal did to worker processes
                self.evaluation_due = False
                torchrl_logger.warning(f"step {step}: no evaluation: {error}")
        if result is None:
            return
        # It is counted and saved whole, whatever signal comes now.
        self.evaluation_due = False
        self.evaluator.record(result, step, metrics)
        best = self.evaluator.beats(result)
        self.evaluator.count(result)
        if best:
            self.save(best=True)
        if self.config.logger.pictures and not self.stop.asked:
            with self.stop.at_once():
                self.evaluator.show(model, step, metrics, f"plans-{step}.png")

    def _final_score(self, model: Any, refine_steps: int | None) -> EvaluationResult | None:
        """A score for ``results.json``; ``None`` if told to stop before there is one."""
        try:
            with self.stop.at_once():
                return None if self.stop.asked else self.evaluator.score(model, refine_steps)
        except InputError as error:
            if not self.stop.asked:  # else it may be what the signal did to worker processes
                raise InputError(
                    f"{error}; the training is saved: {resume(self.folder)} evaluates it again"
                ) from error
        return None

    def _show(self, model: Any, metrics: Metrics) -> None:
        """The pictures at the end."""
        step, path = self.trainer.step, self.folder / "training.png"
        with skipped_on_error(path):
            plot_training(metrics.file, path, self.config.evaluation.episodes)
            metrics.picture("train/curves", path, step)
        if self.config.evaluation.episodes:
            self.evaluator.show(model, step, metrics, "plans.png", self.config.logger.video)
