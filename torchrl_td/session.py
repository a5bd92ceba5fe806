"""One process' share of a run: trains, watches, saves, evaluates."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl import torchrl_logger
from tqdm import tqdm

from torchrl_td.checkpoint import describe, load_about, load_payload, save_checkpoint
from torchrl_td.config import Config
from torchrl_td.distributed import World
from torchrl_td.errors import TDError
from torchrl_td.evaluation import EvaluationResult
from torchrl_td.judge import Judge
from torchrl_td.metrics import Metrics
from torchrl_td.plotting import plot_training
from torchrl_td.results import summarize
from torchrl_td.run_folder import write_json
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
        self.judge = Judge(config, folder, action_spec, device)
        self.trainer = Trainer(config, episodes, device, world)
        self.judge.actor(self.trainer.model)  # refuses what cannot plan before training
        self.metrics: Metrics | None = None  # the first process' alone
        self.seconds = 0.0
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
        self.judge.load_state_dict(state)
        self.evaluation_due = state["evaluation_due"]

    def open(self, run_id: str) -> None:
        """Opens the metrics; rows of steps that will be taken again are dropped."""
        step = self.trainer.step
        self.metrics = Metrics(self.config, self.folder, run_id, step if step else None)

    def train(self) -> bool:
        """Trains to the last step; False if it was told to stop before.

        Ctrl-C, SIGTERM and SIGUSR2 save a checkpoint first.
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
        finished = trainer.step >= settings.steps or self.judge.out_of_patience()
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
        model, step = self.trainer.planner_model(), self.trainer.step
        results = []
        for refine_steps in sorted({0, self.config.planner.refine_steps}):
            try:
                result = self.judge.score(model, step, self.metrics, refine_steps)
            except TDError as error:
                raise TDError(
                    f"{error}; the training is saved: resume={self.folder} evaluates it again"
                ) from error
            results.append(result)
        if self.config.training.evaluate_every and self.judge.beats(results[-1]):
            self.save(best=True)
        summary = self.summary(results)
        write_json(self.folder / "results.json", summary)
        plot_training(self.metrics.file, self.folder / "training.png")
        self.metrics.picture("training", self.folder / "training.png", step)
        video = self.config.logger.video
        self.judge.show(model, step, self.metrics, "plans.png", video)
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
            **self.judge.state_dict(),
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

    def _done(self) -> bool:
        settings, step = self.config.training, self.trainer.step
        if step >= min(settings.steps, settings.stop_after or settings.steps):
            return True
        stopped = self.stopped_by is not None
        if self.world.size > 1:
            asked = step % _SIGNAL_STEPS == 0
            stopped = asked and self.world.agree(stopped, self.device)
        return stopped or self.judge.out_of_patience()

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
        """Plays the task in the first process; the others wait for it."""
        self.evaluation_due = False
        if self.metrics is not None:
            self._play(self.metrics)
        if self.world.agree(self.judge.out_of_patience(), self.device):
            self.judge.evaluations_since_best = self.config.training.patience or 0

    def _play(self, metrics: Metrics) -> None:
        """An environment that fails costs this evaluation, not the run; a signal puts it off."""
        model, step = self.trainer.planner_model(), self.trainer.step
        self.evaluation_due, self._evaluating = True, True
        try:
            result = self.judge.score(model, step, metrics)
            # It is counted and saved whole, whatever signal comes now.
            self.evaluation_due, self._evaluating = False, False
            best = self.judge.beats(result)
            self.judge.count(result)
            if best:
                self.save(best=True)
            if self.config.logger.pictures:
                self._evaluating = True
                self.judge.show(model, step, metrics, f"plans-{step}.png")
        except TDError as error:
            self.evaluation_due = False
            torchrl_logger.warning(f"step {step}: no evaluation: {error}")
        except KeyboardInterrupt:
            if self.stopped_by is None:
                raise
        finally:
            self._evaluating = False

    def _clock(self) -> None:
        self.seconds = time.perf_counter() - self._started

    def _on_signal(self, number: int) -> None:
        self.stopped_by = number
        if self._evaluating:  # which may take minutes
            raise KeyboardInterrupt
