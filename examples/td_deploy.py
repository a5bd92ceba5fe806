"""A planner that `actor.export(path)` wrote, at work without TorchRL or this library.

    python examples/td_deploy.py exported/
    python examples/td_deploy.py exported/ --rate 50 --steps 500 --threads 4

Checks that it acts as the actor did when it was exported, then plans at a fixed rate and says how
long a step takes. OpenVINO models need OpenVINO and numpy, `torch.export` archives PyTorch and
numpy. No environment is needed: each observation is the state that was planned for it. Copy
`ExportedPlanner` into your own program and give it real ones.
"""

from __future__ import annotations

import argparse
import errno
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Model = Callable[[dict[str, Any]], list[np.ndarray]]
TOLERANCE = 1e-3  # of the largest action; single precision's rounding stays far below
MOST_STEPS = 10_000_000  # their times are kept


@functools.cache
def openvino_core() -> Any:
    """OpenVINO's core, one for the life of the process.

    It gives this thread a stack for signal handlers, which is gone with it: where several have
    come and gone, the next signal, a Ctrl-C, ends Python with a segmentation fault.
    """
    import openvino

    return openvino.Core()


def openvino_model(path: Path, threads: int, precision: str, cache: Path | None) -> Model:
    """An OpenVINO model as a function of named arrays."""
    try:
        core = openvino_core()
    except ImportError:
        sys.exit(f"error: {path.parent} was exported for OpenVINO: pip install openvino")
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
    if cache is not None:
        settings["CACHE_DIR"] = str(cache)
    model = core.compile_model(path, "CPU", settings)

    def run(inputs: dict[str, Any]) -> list[np.ndarray]:
        found = model(inputs)
        return [found[i] for i in range(len(found))]

    return run


def torch_model(path: Path, threads: int, precision: str, cache: Path | None) -> Model:
    """A `torch.export` archive as a function of arrays in the order they are given."""
    import torch

    if precision == "bf16":
        sys.exit("error: bf16 is for planners exported with format='openvino'; leave it out")
    torch.set_num_threads(threads)
    model = torch.export.load(path).module()

    def run(inputs: dict[str, Any]) -> list[np.ndarray]:
        with torch.inference_mode():
            found = model(*(torch.from_numpy(np.array(array)) for array in inputs.values()))
        return [output.numpy() for output in found]

    return run


def read_about(folder: Path) -> dict[str, Any]:
    """What ``planner.json`` says, if it and the models that it names are whole."""
    try:
        about = json.loads((folder / "planner.json").read_text(encoding="utf-8"))
        ending = {"openvino": "xml", "torch": "pt2"}[about["format"]]
        missing = [way for way in about["models"] if not (folder / f"{way}.{ending}").is_file()]
        if not about["checks"]:
            raise ValueError("no checks")
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"error: cannot read {folder}/planner.json ({error!r}); export the planner anew")
    if missing:
        sys.exit(f"error: {folder} lacks {missing[0]}.{ending}; export the planner anew")
    return about


class ExportedPlanner:
    """Acts in a batch of environments, whose histories and plans it keeps.

    Args:
        folder: what was exported.
        threads: of the processor.
        precision: ``"f32"``, or with OpenVINO ``"bf16"``.
        cache: a folder for OpenVINO's compiled models, so that the next start is faster.
    """

    def __init__(
        self,
        folder: Path | str,
        threads: int = 1,
        precision: str = "f32",
        cache: Path | None = None,
    ) -> None:
        folder = Path(folder)
        self.about = read_about(folder)
        load, ending = {"openvino": (openvino_model, "xml"), "torch": (torch_model, "pt2")}[
            self.about["format"]
        ]
        try:
            self.models = {
                way: load(folder / f"{way}.{ending}", threads, precision, cache)
                for way in self.about["models"]
            }
            self.loc = np.array(self.about["normalizer"]["loc"])
            self.scale = np.array(self.about["normalizer"]["scale"])
            self.forget()
        except Exception as error:  # whatever OpenVINO or PyTorch make of half a file
            lines = (str(error).strip() or type(error).__name__).splitlines()
            # OpenVINO says last what is wrong, after where; PyTorch first, before its stack.
            reason = lines[-1 if self.about["format"] == "openvino" else 0]
            sys.exit(f"error: cannot read {folder} ({reason}); copy it again, or export anew")
        self.random = np.random.default_rng()

    def forget(self) -> None:
        """Begins anew, with an empty history."""
        empty = self.about["inputs"]
        self.state = {
            name: np.zeros(empty[name]["shape"], empty[name]["dtype"])
            for name in self.about["state"]
        }

    def act(
        self,
        observation: np.ndarray,
        target_return: np.ndarray,
        is_init: np.ndarray,
        noisy: bool = True,
    ) -> dict[str, np.ndarray]:
        """One step of B environments.

        Args:
            observation: [B, O], in the environment's units.
            target_return: [B, 1], what is still to be gained, in reward units.
            is_init: bool [B, 1], True where an episode begins.
            noisy: whether a planner that was exported with noise is given some.

        Returns:
            ``action`` [B, A], and ``draft`` and ``refined`` plan [B, H, O].

        Raises:
            ValueError: one is of another shape, not finite, or so large that what is planned is
                not; the history is as it was.
        """
        observation, target_return = np.asarray(observation), np.asarray(target_return)
        is_init = np.asarray(is_init, bool)
        given = {
            "observation": observation.astype(np.float32),
            "target_return": target_return.astype(np.float32),
            "is_init": is_init,
        }
        for name, array in given.items():
            wanted = self.about["inputs"][name]["shape"]
            if list(array.shape) != wanted:
                raise ValueError(
                    f"{name} has shape {list(array.shape)}, the planner reads {wanted}"
                )
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds NaN or Inf; act on the last plan, or stop")
        inputs = {**given, **self.state}
        if "noise" in self.about["inputs"]:
            shape = self.about["inputs"]["noise"]["shape"]
            noise = self.random.standard_normal(shape, dtype=np.float32)
            inputs["noise"] = noise if noisy else np.zeros_like(noise)
        ways = self.ways(observation, is_init)
        outputs: dict[str, np.ndarray] = {}
        for way in np.unique(ways):
            rows = ways == way
            found = self.models[str(way)](inputs)
            for i, name in enumerate(self.about["outputs"]):
                outputs.setdefault(name, np.array(found[i]))[rows] = found[i][rows]
        for name, array in outputs.items():
            if not np.isfinite(array).all():  # kept, it would spoil the steps that follow
                raise ValueError(
                    f"observation or target_return is so large that {name} holds NaN or Inf; act "
                    f"on the last plan, or stop"
                )
        self.state = {name: outputs[f"next_{name}"] for name in self.state}
        return outputs

    def ways(self, observation: np.ndarray, is_init: np.ndarray) -> np.ndarray:
        """How each environment's step [B] is made: ``plan``, ``replan`` or ``follow``."""
        about, steps = self.about, np.where(is_init, 0, self.state["steps"])[:, 0]
        every = about["replan_every"]
        fresh = np.ones(len(steps), bool)
        if about["warm_start"] == "previous":
            present = (observation - self.loc) / self.scale
            error = np.square(present - self.state["plan"][:, every]).mean(-1)
            fresh = (steps // every) % about["refresh_every"] == 0
            fresh |= ~(error <= about["refresh_distance"] ** 2)
        return np.where(steps % every == 0, np.where(fresh, "plan", "replan"), "follow")


def difference_from_actor(planner: ExportedPlanner) -> float:
    """The largest difference from the actions that the actor took when it was exported.

    A share of the largest that was taken in the same entry, or of 0.001 where none is above.
    """
    planner.forget()
    largest = 0.0
    taken = np.abs([check["action"] for check in planner.about["checks"]])  # [steps, B, A]
    unit = np.maximum(taken.max((0, 1)), 1e-3)
    for step, check in enumerate(planner.about["checks"]):
        observation, target = np.array(check["observation"]), np.array(check["target_return"])
        out = planner.act(observation, target, np.full(target.shape, step == 0), noisy=False)
        largest = max(largest, float((np.abs(out["action"] - check["action"]) / unit).max()))
    planner.forget()
    return largest


def control(planner: ExportedPlanner, rate: float, steps: int, target: float) -> np.ndarray:
    """Acts at a fixed rate.

    Args:
        planner: acts.
        rate: steps a second.
        steps: how many.
        target: the return asked for, in reward units.

    Returns:
        Milliseconds from observation to action, shape [steps].
    """
    batch = planner.about["batch_size"]
    observation = np.tile(planner.loc, (batch, 1))
    milliseconds = np.zeros(steps)
    due = time.perf_counter()
    for step in range(steps):
        begun = time.perf_counter()
        first = np.full((batch, 1), step == 0)
        out = planner.act(observation, np.full((batch, 1), target), first)
        milliseconds[step] = 1e3 * (time.perf_counter() - begun)
        observation = out["refined"][:, 1]  # a robot's sensors would be read here
        due += 1 / rate
        time.sleep(max(0.0, due - time.perf_counter()))
    return milliseconds


def read_options() -> argparse.Namespace:
    """The program's words, checked; the folder for compiled models is made."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rate", type=float, default=20.0, help="steps a second")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--target", type=float, default=1.0, help="return, in reward units")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--cache", type=Path, help="folder for OpenVINO's compiled models")
    options = parser.parse_args()
    if not (options.folder / "planner.json").is_file():
        parser.error(f"{options.folder} holds no planner.json; actor.export(...) writes it")
    if not 1e-3 <= options.rate <= 1e6 or not 1 <= options.threads <= 512:
        parser.error("--rate is from 0.001 to 1e6, --threads from 1 to 512")
    if not 1 <= options.steps <= MOST_STEPS:
        parser.error(f"--steps is from 1 to {MOST_STEPS}")
    if not abs(options.target) < 1e30:
        parser.error("--target is to be a number below 1e30")
    if options.cache is not None:
        try:
            options.cache.mkdir(parents=True, exist_ok=True)
            if not os.access(options.cache, os.W_OK):
                raise PermissionError(errno.EACCES, "it is not writable")
        except OSError as error:
            parser.error(f"--cache: cannot write to {options.cache}: {error.strerror}")
    return options


def main() -> None:
    """Checks the planner, runs it and says how long its steps take."""
    options = read_options()
    planner = ExportedPlanner(options.folder, options.threads, options.precision, options.cache)
    difference = difference_from_actor(planner)
    print(f"largest difference from the actor's own actions: {difference:.1e} of the largest")
    if options.precision == "f32" and not difference < TOLERANCE:
        sys.exit(f"error: it does not act as the actor did (tolerance {TOLERANCE}); export it anew")
    control(planner, 1e6, 5, options.target)  # the first steps are slower than those that follow
    times = control(planner, options.rate, options.steps, options.target)
    late = int((times > 1e3 / options.rate).sum())
    median, p95, p99 = np.percentile(times, [50, 95, 99])
    print(
        f"{options.steps} steps at {options.rate:g} Hz, {planner.about['batch_size']} environments"
    )
    print(f"latency: median {median:.2f} ms, 95 % {p95:.2f} ms, 99 % {p99:.2f} ms; {late} late")


if __name__ == "__main__":
    main()
