"""Steps a second of training, and where the time goes.

    python benchmarks/training_speed.py --presets strided,small,paper --steps 20 --json speed.json

For each preset, task and device: the trainer's step; where
:func:`~torchrl_td.training.products.products_of` chose other products than PyTorch's own, the step
without; the paper's step as a straightforward loop takes it (windows cut in Python one by one,
three optimisers with PyTorch's plain loops, an averaged copy updated weight by weight, every loss
read at once; there is none of the strided planner's); and the time of the trainer's parts. The
loops take turns of five steps, so that all meet the same machine. Data is random, of the task's
sizes.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_dir
from tensordict import TensorDict

from torchrl_td.comparison.collecting import machine
from torchrl_td.config import CONFIGS, Config, check_config, plan_horizon
from torchrl_td.data import load_episodes
from torchrl_td.experiment.cli import main as run_program
from torchrl_td.experiment.run_folder import versions
from torchrl_td.training.trainer import Trainer
from torchrl_td.training.trajectory_diffuser import TrajectoryDiffuserTraining

# Widths of a task's observations and actions. Preset strided asks for returns on Gym, in mazes for
# scores.
SIZES = {
    "hopper/medium-expert": (11, 3),
    "halfcheetah/medium-expert": (17, 6),
    "walker2d/medium-expert": (17, 6),
    "maze2d/umaze": (4, 2),
}
_TURN = 5  # steps in a row
_CLEAR_PEAK = Path("/proc/self/clear_refs")  # Linux: 5 sets the peak back to what is in use


def settings(preset: str, task: str, words: list[str]) -> Config:
    """A preset's for a task."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        overrides = [f"preset={preset}", f"task={task}", "dataset.validation_share=0"]
        return check_config(compose("td_offline", overrides=[*overrides, *words]))


def random_episodes(observation: int, action: int, steps: int = 100_000) -> TensorDict:
    """Episodes of 1,000 steps of random numbers."""
    generator = torch.Generator().manual_seed(0)

    def draw(width: int) -> torch.Tensor:
        return torch.randn(steps, width, generator=generator)

    ends = torch.zeros(steps, 1, dtype=torch.bool)
    ends[999::1000] = True
    states = draw(observation).cumsum(0) * 0.01 + draw(observation)
    return load_episodes(
        TensorDict(
            {
                "observation": states,
                "action": draw(action).tanh(),
                "next": {
                    "observation": states.roll(-1, 0),
                    "reward": draw(1).abs(),
                    "terminated": torch.zeros_like(ends),
                    "truncated": ends,
                },
            },
            batch_size=[steps],
        )
    )


class StraightforwardLoop:
    """The same three losses as a first version would train them."""

    def __init__(self, trainer: Trainer) -> None:
        self.config, self.device = trainer.config, trainer.device
        self.model = copy.deepcopy(trainer.model)
        self.losses = TrajectoryDiffuserTraining(self.model, self.config).losses
        self.average = copy.deepcopy(self.model.refiner_network)
        rate = self.config.training.learning_rate
        self.optimizers = [
            torch.optim.AdamW(loss.parameters(), lr=rate, foreach=False, fused=False)
            for loss in self.losses.values()
        ]
        data = trainer.buffer.storage.get(slice(0, len(trainer.buffer)))
        self.data = data.cpu()
        self.history = self.config.task.horizon - 1

    def batch(self) -> TensorDict:
        """Windows cut out one after the other."""
        number, length = self.data["episode"].reshape(-1), 2 * self.history
        windows = []
        for present in torch.randint(len(number), (self.config.training.batch_size,)).tolist():
            rows = []
            mask = []
            for offset in range(-self.history + 1, self.history + 1):
                row = min(max(present + offset, 0), len(number) - 1)
                inside = bool(number[row] == number[present]) and row == present + offset
                rows.append(row if inside else present)
                mask.append(inside)
            window = self.data[torch.tensor(rows)].clone()
            window["mask"] = torch.tensor(mask)
            windows.append(window)
        assert windows[0].shape == (length,)
        return torch.stack(windows).contiguous().to(self.device)

    def step(self) -> float:
        """One step, its losses read at once."""
        batch = self.batch()
        total = 0.0
        for name, optimizer in zip(self.losses, self.optimizers, strict=True):
            loss = self.losses[name](batch)[f"loss_{name}"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        decay = self.config.training.ema_decay
        with torch.no_grad():
            trained = self.model.refiner_network.parameters()
            for slow, fast in zip(self.average.parameters(), trained, strict=True):
                slow.mul_(decay).add_((1 - decay) * fast)
        return total


def parts_of(trainer: Trainer) -> dict[str, Callable[[Any], Any]]:
    """The trainer's step in pieces, each of which hands on what the next one needs."""

    reads = trainer.algorithm.reads

    def forward(name: str) -> Callable[[Any], Any]:
        def compute(batch: Any) -> Any:
            read = batch[reads[name]] if name in reads else batch
            trainer.losses[name](read)[f"loss_{name}"].backward()
            return batch

        return compute

    def optimise(batch: Any) -> Any:
        trainer._clip_gradients()
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        trainer.scheduler.step()
        trainer.algorithm.update_targets(trainer.step)
        return batch

    pieces: dict[str, Callable[[Any], Any]] = {
        "sampling": lambda _: trainer.buffer.sample().to(trainer.device),
        "preparing": trainer.algorithm.prepare,
    }
    pieces |= {name: forward(name) for name in trainer.losses}
    return pieces | {"optimiser": optimise}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def with_default_products(trainer: Trainer) -> Callable[[], None]:
    """The trainer's step, multiplied by whatever library PyTorch turns to by itself."""

    def step() -> None:
        with patch.object(trainer, "products", nullcontext):
            trainer.train_step()

    return step


def timed(function: Callable[..., Any], device: torch.device, *arguments: Any) -> tuple[float, Any]:
    """Seconds of a call, and what it returned."""
    wait(device)
    start = time.perf_counter()
    result = function(*arguments)
    wait(device)
    return time.perf_counter() - start, result


def turn(step: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a step among some in a row: in training nothing waits for a GPU at each."""

    def steps() -> None:
        for _ in range(_TURN):
            step()

    return timed(steps, device)[0] / _TURN


def forget_peak_memory(device: torch.device) -> None:
    """Has :func:`peak_memory` begin anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR_PEAK.exists():
        _CLEAR_PEAK.write_text("5")


def peak_memory(device: torch.device) -> float:
    """MiB: of tensors on a GPU, of the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if _CLEAR_PEAK.exists():
        status = _CLEAR_PEAK.with_name("status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # ever since the start


def measure(config: Config, device: torch.device, steps: int) -> dict:
    """One row of the table."""
    forget_peak_memory(device)
    trainer = Trainer(config, random_episodes(*SIZES[config.task.name]), device)
    turn(trainer.train_step, device)  # sets up, compiles and captures
    peak = peak_memory(device)
    loops = {"step": trainer.train_step}
    if trainer.products is not nullcontext:
        loops["default_products"] = with_default_products(trainer)
    if config.generator.kind != "plan":
        loops["straightforward"] = StraightforwardLoop(trainer).step
    pieces = parts_of(trainer)
    seconds: dict[str, list[float]] = {name: [] for name in (*loops, *pieces)}
    for loop in loops.values():
        turn(loop, device)
    for _ in range(-(-steps // _TURN)):
        for name, loop in loops.items():
            seconds[name].append(turn(loop, device))
        for _ in range(_TURN):
            handed = None
            for name, piece in pieces.items():
                with trainer.products():
                    spent, handed = timed(piece, device, handed)
                seconds[name].append(spent)
    trainer.check_health()
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return describe(trainer, median, list(pieces)) | {"peak_memory_mib": peak}


def describe(trainer: Trainer, median: dict[str, float], pieces: list[str]) -> dict[str, Any]:
    """What was measured, and of what."""
    config, device = trainer.config, trainer.device
    whole = sum(median[name] for name in pieces)
    others = {
        f"times_{name}": median[name] / median["step"] if name in median else None
        for name in ("default_products", "straightforward")
    }
    return {
        "preset": config.preset,
        "task": config.task.name,
        "horizon": plan_horizon(config),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "batch": config.training.batch_size,
        "compile": config.training.compile,
        "cudagraph": config.training.cudagraph,
        "autocast": config.training.autocast,
        "steps_per_second": 1 / median["step"],
        **others,
        "milliseconds": {name: 1e3 * spent for name, spent in median.items()},
        "share": {name: median[name] / whole for name in pieces},
        "sampling_and_optimiser_share": (median["sampling"] + median["optimiser"]) / whole,
        "parameters": trainer.model.parameter_counts(),
        "versions": versions(),
        "machine": machine(),
    }


def line(row: dict[str, Any]) -> str:
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in row["share"].items())
    others = {"default_products": "default products", "straightforward": "a straightforward loop"}
    found = {words: row[f"times_{name}"] for name, words in others.items()}
    compared = "".join(f"{times:5.2f}x {words}  " for words, times in found.items() if times)
    count = sum(row["parameters"].values()) / 1e6
    return (
        f"{row['preset']:10s} {row['task']} {row['device']:12s} {row['threads']} threads  "
        f"{row['steps_per_second']:8.2f} steps/s  "
        f"{compared}{count:.1f} M parameters  {row['peak_memory_mib']:.0f} MiB\n           {shares}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", default="strided,small,paper")
    parser.add_argument("--task", default="hopper/medium-expert", choices=sorted(SIZES))
    parser.add_argument("--devices", default="cpu" + ",cuda" * torch.cuda.is_available())
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "words",
        nargs="*",
        help="settings, as in training.compile=true; the CPU's rows go without training.cudagraph",
    )
    given = parser.parse_args()
    if given.steps < 1:
        parser.error("--steps is to be 1 or more")
    torch.set_num_threads(given.threads)
    rows = []
    for preset in given.presets.split(","):
        for device in given.devices.split(","):
            words = given.words
            if device == "cpu":
                words = [word for word in words if not word.startswith("training.cudagraph")]
            config = settings(preset, given.task, words)
            rows.append(measure(config, torch.device(device), given.steps) | {"settings": words})
            sys.stdout.write(line(rows[-1]) + "\n")
            sys.stdout.flush()
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    run_program(main, CONFIGS)
