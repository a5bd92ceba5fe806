"""A whole run: data, training with checkpoints, evaluation, results and pictures."""

from __future__ import annotations

import copy
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from tensordict import TensorDictBase
from torchrl import torchrl_logger
from torchrl.data import Bounded
from tqdm import tqdm

from torchrl_td.checkpoint import (
    describe,
    find_checkpoint,
    load_about,
    load_payload,
    save_checkpoint,
)
from torchrl_td.config import Config, check_config, to_dict
from torchrl_td.data import check_matches_env, load_episodes
from torchrl_td.envs import make_base_env, make_env, make_gym_env, opened
from torchrl_td.errors import TDError
from torchrl_td.evaluation import EvaluationResult, evaluate, normalized_score, play
from torchrl_td.metrics import Metrics
from torchrl_td.modules.build import TrajectoryDiffuser
from torchrl_td.planner import TDPlannerActor
from torchrl_td.plotting import plot_plans, plot_training
from torchrl_td.training import Trainer

_PACKAGES = ("torch", "torchrl", "tensordict", "gymnasium", "mujoco", "minari", "torchrl_td")


def run(config: Config) -> dict[str, Any]:
    """Trains on offline data and evaluates; the whole of ``examples/td_offline.py``.

    Args:
        config: checked settings; ``config.resume`` continues an interrupted run.

    Returns:
        What was written to ``results.json``; without ``results`` if stopped early.

    Raises:
        TDError: for anything the user can mend, before hours are spent.
    """
    config, checkpoint = _resumed(config)
    device = pick_device(config.device)
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    folder = prepare_folder(config, resuming=checkpoint is not None)
    with locked(folder):
        source = config.dataset.source
        # Only Minari's observations can be a Dict; D4RL's are one vector already.
        keys = config.task.observation_keys if source.startswith("minari:") else None
        episodes = load_episodes(source, observation_keys=keys)
        env = make_base_env(config.task)
        check_matches_env(episodes, env)
        action_spec = env.action_spec
        env.close()
        session = Session(config, folder, episodes, action_spec, device)
        if checkpoint is not None:
            session.restore(checkpoint)
        finished = session.train()
        if not finished:
            return session.summary([])
        return session.finish()


class Session:
    """One process' share of a run: the trainer with its folder, metrics and checkpoints.

    Args:
        config: the run's settings.
        folder: its output folder.
        episodes: the raw dataset [N].
        action_spec: the environment's.
        device: where to train and plan.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        episodes: TensorDictBase,
        action_spec: Any,
        device: torch.device,
    ) -> None:
        self.config = config
        self.folder = folder
        self.device = device
        self.action_spec = action_spec
        self.trainer = Trainer(config, episodes, device)
        self.dataset = describe_dataset(config, episodes)
        self.seconds = 0.0
        self.best_score: float | None = None
        self.evaluations_since_best = 0
        self.interrupted = False
        self.metrics: Metrics | None = None

    def restore(self, checkpoint: Path) -> None:
        """Continues from a checkpoint of the same run.

        Raises:
            TDError: if the dataset is not the one that the run was started on.
        """
        about = load_about(checkpoint)
        if about["dataset"]["fingerprint"] != self.dataset["fingerprint"]:
            raise TDError(
                f"the dataset {self.config.dataset.source!r} is not the one this run was started "
                f"on ({about['dataset']['transitions']} transitions then, "
                f"{self.dataset['transitions']} now, or other values); restore it or start anew"
            )
        state = load_payload(checkpoint, "training", "cpu")
        self.trainer.load_state_dict(state["trainer"])
        self.seconds = state["seconds"]
        self.best_score = state["best_score"]
        self.evaluations_since_best = state["evaluations_since_best"]

    def train(self) -> bool:
        """Trains to the last step; False if it was told to stop before.

        Ctrl-C and SIGTERM save a checkpoint first.
        """
        settings, trainer = self.config.training, self.trainer
        self.metrics = Metrics(self.config, self.folder, trainer.step if trainer.step else None)
        stop_after = settings.stop_after or settings.steps
        started = time.perf_counter() - self.seconds
        losses: list[torch.Tensor] = []
        indices: list[torch.Tensor] = []
        bar = tqdm(
            total=settings.steps,
            initial=trainer.step,
            desc="training",
            unit="step",
            disable=not self.config.progress,
        )
        with signals(self._interrupt), bar:
            while trainer.step < min(settings.steps, stop_after) and not self.interrupted:
                parts, index = trainer.train_step()
                losses.append(sum(v for k, v in parts.items() if k.startswith("loss_")))
                indices.append(index)
                bar.update()
                step = trainer.step
                last = step == settings.steps
                if step % settings.log_every == 0 or last:
                    trainer.check_finite(torch.stack(losses), indices)
                    self.seconds = time.perf_counter() - started
                    self._log(parts, len(losses), bar)
                    losses, indices = [], []
                if settings.validate_every and (step % settings.validate_every == 0 or last):
                    self._validate(step)
                if settings.evaluate_every and step % settings.evaluate_every == 0 and not last:
                    self._evaluate(step)
                    if self._out_of_patience():
                        break
                if step % settings.checkpoint_every == 0 or last:
                    self.seconds = time.perf_counter() - started
                    self.save()
        if losses:
            trainer.check_finite(torch.stack(losses), indices)
        self.seconds = time.perf_counter() - started
        if trainer.step % settings.checkpoint_every and trainer.step != settings.steps:
            self.save()
        finished = trainer.step >= settings.steps or self._out_of_patience()
        if not finished:
            torchrl_logger.info(
                f"stopped at step {trainer.step} of {settings.steps}; continue with "
                f"resume={self.folder}"
            )
            self.metrics.close()
        return finished

    def finish(self) -> dict[str, Any]:
        """Evaluates generator and refined planner, writes results and pictures."""
        assert self.metrics is not None
        model = self.trainer.planner_model()
        results = []
        for refine_steps in sorted({0, self.config.planner.refine_steps}):
            result = evaluate(self._actor(model, refine_steps), self.config)
            results.append(result)
            self._log_evaluation(result)
        summary = self.summary(results)
        write_json(self.folder / "results.json", summary)
        self._draw(model)
        self.metrics.close()
        return summary

    def save(self, best: bool = False) -> None:
        """Writes a checkpoint."""
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
        config = self.config
        return {
            "task": config.task.name,
            "dataset": self.dataset,
            "environment": config.task.env,
            "preset": config.preset,
            "seed": config.seed,
            "training_steps": self.trainer.step,
            "training_seconds": round(self.seconds, 1),
            "target_return": config.evaluation.target_return,
            "guidance_scale": config.planner.guidance_scale,
            "candidates": config.planner.candidates,
            "parameters": self.trainer.model.parameter_counts(),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "results": [result.to_dict() for result in results],
        }

    def _interrupt(self) -> None:
        self.interrupted = True

    def _out_of_patience(self) -> bool:
        patience = self.config.training.patience
        return patience is not None and self.evaluations_since_best >= patience

    def _actor(self, model: TrajectoryDiffuser, refine_steps: int | None = None) -> TDPlannerActor:
        config = copy.deepcopy(self.config)
        if refine_steps is not None:
            config.planner.refine_steps = refine_steps
        if config.planner.refine_steps == 0:
            config.planner.evaluations, config.planner.candidates = None, 1
        spec = Bounded(self.action_spec.space.low, self.action_spec.space.high)
        return TDPlannerActor.from_model(model, config, spec.to(self.device))

    def _log(self, parts: dict[str, torch.Tensor], steps: int, bar: tqdm) -> None:
        assert self.metrics is not None
        values = {f"train/{name}": float(value) for name, value in parts.items()}
        values["lr/all"] = self.trainer.learning_rate()
        values["time/seconds"] = self.seconds
        self.metrics.write(self.trainer.step, values)
        shown = {k.removeprefix("train/loss_"): v for k, v in values.items() if "/loss_" in k}
        bar.set_postfix({k: f"{v:.4f}" for k, v in shown.items()}, refresh=False)

    def _validate(self, step: int) -> None:
        assert self.metrics is not None
        losses = self.trainer.validate()
        self.metrics.write(step, {f"validation/{name}": v for name, v in losses.items()})

    def _evaluate(self, step: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.evaluation.seed)
            result = evaluate(self._actor(self.trainer.planner_model()), self.config)
        self._log_evaluation(result)
        if self.best_score is None or result.score_mean > self.best_score:
            self.best_score, self.evaluations_since_best = result.score_mean, 0
            self.save(best=True)
        else:
            self.evaluations_since_best += 1

    def _log_evaluation(self, result: EvaluationResult) -> None:
        assert self.metrics is not None
        name = "generator" if result.refine_steps == 0 else "refined"
        self.metrics.write(
            self.trainer.step,
            {
                f"eval/score/{name}": result.score_mean,
                f"eval/score_std/{name}": result.score_std,
                f"time/seconds_per_plan/{name}": result.seconds_per_plan_median,
            },
        )
        torchrl_logger.info(
            f"step {self.trainer.step}: {name} planner scores {result.score_mean:.1f} ± "
            f"{result.score_std:.1f} over {result.episodes} episodes, "
            f"{1e3 * result.seconds_per_plan_median:.1f} ms a plan"
        )

    def _draw(self, model: TrajectoryDiffuser) -> None:
        assert self.metrics is not None
        plot_training(self.metrics.file, self.folder / "training.png")
        actor = self._actor(model)
        env = make_env(
            self.config.task,
            1,
            target_return=self.config.evaluation.target_return,
            seed=self.config.evaluation.seed,
            device=self.device,
            primer=actor.make_tensordict_primer(),
        )
        with opened(env):
            rollout = play(env, actor, self.config.task.max_episode_steps)[0].cpu()
        unwrapped = make_gym_env(self.config.task).unwrapped
        plot_plans(rollout, self.folder / "plans.png", unwrapped)


def pick_device(name: str) -> torch.device:
    """``auto`` takes a GPU if there is one.

    Raises:
        TDError: if the device is unknown or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TDError(f"device={name} cannot be used: {reason}; try device=cpu") from None
    return device


def describe_dataset(config: Config, episodes: TensorDictBase) -> dict[str, Any]:
    """What ``results.json`` and a checkpoint say of the data.

    The fingerprint is a checksum over all observations, actions and rewards.
    """
    number = episodes["episode"].reshape(-1)
    reward = episodes["next", "reward"].reshape(-1).double()
    returns = torch.zeros(int(number.max()) + 1, dtype=torch.float64)
    returns.index_add_(0, number, reward)
    score = normalized_score(returns, config.task)
    # A position-weighted sum catches reordered rows too and reads the data once.
    weights = torch.arange(1, len(number) + 1, dtype=torch.float64).remainder(8191)
    sums = [
        float((episodes[key].double().reshape(len(number), -1).sum(-1) * weights).sum())
        for key in ("observation", "action", ("next", "reward"))
    ]
    return {
        "source": config.dataset.source,
        "transitions": len(number),
        "episodes": len(returns),
        "return_mean": float(returns.mean()),
        "return_best": float(returns.max()),
        "score_mean": float(score.mean()),
        "score_best": float(score.max()),
        "fingerprint": [repr(s) for s in sums],
    }


def prepare_folder(config: Config, resuming: bool) -> Path:
    """Makes the output folder and writes ``config.yaml`` and ``run.json`` into it.

    Raises:
        TDError: if it already holds a run, or cannot be written.
    """
    folder = Path(config.output_dir).expanduser()
    if not resuming and (folder / "checkpoint").exists():
        raise TDError(
            f"output_dir={folder} already holds a run; continue it with resume={folder} or choose "
            f"another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        settings = folder / "config.yaml"
        if not settings.exists():
            settings.write_text(OmegaConf.to_yaml(OmegaConf.create(to_dict(config))))
        write_json(
            folder / "run.json",
            {
                "command": sys.argv,
                "versions": versions(),
                "git_commit": _git_commit(),
                "host_cores": os.cpu_count(),
                "started": time.strftime("%Y-%m-%dT%H:%M:%S"),
            },
        )
    except OSError as error:
        raise TDError(
            f"cannot write to output_dir={folder}: {error.strerror}; choose another folder"
        ) from None
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps two runs out of one folder.

    Raises:
        TDError: if another process is running in it.
    """
    import fcntl

    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TDError(
                f"another run is writing to {folder}; wait for it or choose another output_dir"
            ) from None
        yield


@contextmanager
def signals(handler: Callable[[], None]) -> Iterator[None]:
    """Turns Ctrl-C and SIGTERM into a call; a second Ctrl-C interrupts at once."""

    def on_signal(number: int, frame: Any) -> None:
        handler()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, on_signal)
    except ValueError:  # not in the main thread: the caller handles signals
        before = {}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def write_json(path: Path, content: Any) -> None:
    """Writes JSON in one go, so that a reader never sees half of it."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


def _resumed(config: Config) -> tuple[Config, Path | None]:
    """The interrupted run's settings in place of the given ones, and its checkpoint."""
    if config.resume is None:
        return config, None
    folder = Path(config.output_dir if config.resume == "auto" else config.resume)
    if config.resume == "auto" and not (folder / "checkpoint").exists():
        return config, None
    checkpoint = find_checkpoint(folder)
    settings = check_config(load_about(checkpoint)["config"])
    settings.output_dir = str(folder)
    settings.device = config.device
    settings.training.stop_after = config.training.stop_after
    settings.logger = config.logger
    settings.progress = config.progress
    return settings, checkpoint


def _git_commit() -> str:
    try:
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
