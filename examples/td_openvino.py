"""A planner that `actor.export(path)` wrote, run with OpenVINO and numpy alone.

    python examples/td_openvino.py exported/
    python examples/td_openvino.py exported/ --steps 200 --precision bf16 --threads 4

No environment is needed: each observation is the state that was planned for it. Copy
`ExportedPlanner` into your own program and give it real ones.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import openvino


class ExportedPlanner:
    """Acts in a batch of environments, whose histories and plans it keeps.

    Args:
        folder: what was exported.
        threads: of the processor.
        precision: ``"f32"`` or ``"bf16"``.
        cache: a folder for OpenVINO's compiled models, so that the next start is faster.
    """

    def __init__(
        self, folder: Path, threads: int = 1, precision: str = "f32", cache: Path | None = None
    ) -> None:
        self.about = json.loads((folder / "planner.json").read_text(encoding="utf-8"))
        core = openvino.Core()
        if cache is not None:
            core.set_property({"CACHE_DIR": str(cache)})
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
        self.models = {
            way: core.compile_model(folder / f"{way}.xml", "CPU", settings)
            for way in self.about["models"]
        }
        self.loc = np.array(self.about["normalizer"]["loc"])
        self.scale = np.array(self.about["normalizer"]["scale"])
        self.random = np.random.default_rng()
        empty = self.about["inputs"]
        self.state = {
            name: np.zeros(empty[name]["shape"], empty[name]["dtype"])
            for name in self.about["state"]
        }

    def act(
        self, observation: np.ndarray, target_return: np.ndarray, is_init: np.ndarray
    ) -> dict[str, np.ndarray]:
        """One step of B environments.

        Args:
            observation: [B, O], in the environment's units.
            target_return: [B, 1], what is still to be gained, in reward units.
            is_init: bool [B, 1], True where an episode begins.

        Returns:
            ``action`` [B, A], and ``draft`` and ``refined`` plan [B, H, O].
        """
        inputs = {
            "observation": observation.astype(np.float32),
            "target_return": target_return.astype(np.float32),
            "is_init": is_init,
            **self.state,
        }
        if "noise" in self.about["inputs"]:
            shape = self.about["inputs"]["noise"]["shape"]
            inputs["noise"] = self.random.standard_normal(shape, dtype=np.float32)
        ways = self.ways(observation, is_init)
        outputs: dict[str, np.ndarray] = {}
        for way in np.unique(ways):
            rows = ways == way
            found = self.models[str(way)](inputs)
            for i, name in enumerate(self.about["outputs"]):
                outputs.setdefault(name, np.array(found[i]))[rows] = found[i][rows]
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


def main() -> None:
    """Plans some steps and says how long each takes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--target", type=float, default=1.0, help="return, in reward units")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--cache", type=Path, help="folder for compiled models")
    options = parser.parse_args()
    planner = ExportedPlanner(options.folder, options.threads, options.precision, options.cache)
    batch = planner.about["batch_size"]
    observation = np.tile(planner.loc, (batch, 1))
    target = np.full((batch, 1), options.target)
    times = []
    for step in range(options.steps):
        start = time.perf_counter()
        out = planner.act(observation, target, np.full((batch, 1), step == 0))
        times.append(1e3 * (time.perf_counter() - start))
        print(f"step {step}: action {np.round(out['action'][0], 3).tolist()}")
        observation = out["refined"][:, 1]
    print(f"{np.median(times):.2f} ms a step, {batch} environments")


if __name__ == "__main__":
    main()
