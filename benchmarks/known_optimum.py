"""What every algorithm makes where its best policy is known.

    python benchmarks/known_optimum.py
    python benchmarks/known_optimum.py algorithms=rcbc,iql seeds=0 output=outputs/known_optimum.json

A point on a line is paid, in each of 20 steps, its speed to the right, from -1 to 1. Each of the
data's 200 episodes keeps to a speed of its own, from -0.5 to 1 but for noise of 0.1, so that where
the point is and what it is still to bring tell the action. Hence what is known:

* who clones brings what the data's mean action near its state brings (``bc``), or that of the tenth
  of the episodes that brought most (``bc_best``): computed from the data, without a network;
* who is asked for a return brings that: ``rcbc`` and its kin, ``dt``, ``decision_diffuser``, and
  ``trajectory_diffuser``, the planner;
* who is to bring the most (``iql``, ``td3_bc``, ``diffuser``) can bring no more than 20. The data's
  best episode brings 19.4, their mean is 4.9.

Networks are small and trainings short; every other setting is the algorithm's own. Diffuser's plans
are guided by three strengths: by 0 nothing draws them to higher returns.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from torchrl_td import train
from torchrl_td.errors import InputError
from torchrl_td.experiment.checkpoint_evaluation import evaluate_checkpoint
from torchrl_td.experiment.cli import main
from torchrl_td.experiment.run_folder import versions, write_json

STEPS = 20  # of an episode
ASKED = (-5.0, 5.0, 15.0)  # returns
_MOVED = 0.1  # by a step at full speed
_POLICY = ("algorithm.hidden_dims=[64,64]", "training.steps=1000")
_PLANS = (
    "preset=small",
    "task.horizon=8",
    "refiner.channels=16",
    "refiner.multipliers=[1,2]",
    "inverse_dynamics.hidden_dims=[64]",
    "training.steps=1500",
)
# What makes each algorithm's training short.
SETTINGS: dict[str, tuple[str, ...]] = {
    "bc": _POLICY,
    "bc_best": _POLICY,
    "rcbc": _POLICY,
    "rcbc_modulated": _POLICY,
    "rcbc_ensemble": _POLICY,
    "dt": (
        "algorithm.context=5",
        "algorithm.width=32",
        "algorithm.layers=2",
        "training.steps=1000",
        "training.warmup_steps=100",
        "training.learning_rate=1e-3",
    ),
    "iql": ("algorithm.hidden_dims=[64,64]", "training.steps=2000"),
    "td3_bc": ("algorithm.hidden_dims=[64,64]", "training.steps=2000"),
    "decision_diffuser": _PLANS,
    "diffuser": (*_PLANS, "algorithm.hidden_dims=[64,64]"),
    "trajectory_diffuser": (
        "generator.width=64",
        "refiner.hidden_dims=[64,64]",
        "inverse_dynamics.hidden_dims=[64,64]",
        "training.steps=600",
        "evaluation.baseline=null",
    ),
}
_COMMON = ("evaluation.episodes=5", f"task.max_episode_steps={STEPS}", "progress=false")
_STRENGTHS = (0, 1, 4)  # of Diffuser's guidance
_DEFAULTS = {
    "algorithms": ",".join(SETTINGS),
    "seeds": "0,1,2",
    "output": "outputs/known_optimum.json",
}


class Line(gymnasium.Env):
    """The point, which starts at 0."""

    observation_space = spaces.Box(-10, 10, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place = np.zeros(1, np.float32)
        return self.place.copy(), {}

    def step(self, action: Any) -> Any:
        speed = np.clip(action, -1, 1).astype(np.float32)
        self.place = self.place + _MOVED * speed
        return self.place.copy(), float(speed[0]), False, False, {}


gymnasium.register("Line-v0", Line, max_episode_steps=STEPS)


def episodes(count: int = 200) -> list[dict[str, Any]]:
    """The data: an episode of each speed."""
    random = np.random.default_rng(0)
    found = []
    for speed in np.linspace(-0.5, 1, count):
        action = np.clip(speed + 0.1 * random.standard_normal((STEPS, 1)), -1, 1)
        place = np.concatenate([np.zeros((1, 1)), _MOVED * action.cumsum(0)]).astype(np.float32)
        found.append(
            {
                "observations": place[:-1],
                "next_observations": place[1:],
                "actions": action.astype(np.float32),
                "rewards": action[:, 0].astype(np.float32),
                "terminals": np.zeros(STEPS, bool),
            }
        )
    return found


def cloned(data: list[dict[str, Any]], width: float = 0.05) -> float:
    """What an episode brings whose every action is the mean of the data's near its state.

    Args:
        data: the episodes.
        width: how far a state may be to be near.
    """
    places, actions = (
        np.concatenate([episode[key][:, 0] for episode in data])
        for key in ("observations", "actions")
    )
    place = total = 0.0
    for _ in range(STEPS):
        speed = float(actions[np.abs(places - place) <= width].mean())
        place, total = place + _MOVED * speed, total + speed
    return total


def best_tenth(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tenth of the episodes that brought most."""
    return sorted(data, key=lambda episode: -episode["rewards"].sum())[: len(data) // 10]


def played(algorithm: str, seed: int, data: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Trains an algorithm, once or with each strength, and plays it.

    Yields:
        ``what`` it was asked for, or guided by; what is ``known`` that it should make, None for as
        much as it can; what it ``made``, the mean of its episodes.
    """
    words = [f"algorithm={algorithm}", f"seed={seed}", *_COMMON, *SETTINGS[algorithm]]
    variants = [[f"algorithm.value_scale={s}"] for s in _STRENGTHS]
    for variant in variants if algorithm == "diffuser" else [[]]:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            result = train(data, "Line-v0", settings=[*words, *variant], output_dir=run).results
            if algorithm in ("bc", "bc_best", "iql", "td3_bc", "diffuser"):
                known = {"bc": cloned(data), "bc_best": cloned(best_tenth(data))}.get(algorithm)
                what = variant[0] if variant else ""
                yield {"what": what, "known": known, "made": _made(result)}
                continue
            for asked in ASKED:
                given = f"evaluation.target_return={asked:g}"
                result = evaluate_checkpoint([f"checkpoint={run}", given, "device=cpu"])
                yield {"what": given, "known": asked, "made": _made(result)}


def _made(results: dict[str, Any]) -> float:
    """The last way to plan counts, which is the refined one."""
    return float(np.mean(results["results"][-1]["returns"]))


def read_words(words: list[str]) -> tuple[list[str], list[int], Path]:
    """Algorithms, seeds and the file from ``key=value`` words."""
    options = dict(_DEFAULTS)
    for word in words:
        key, separator, text = word.partition("=")
        if not separator or key not in options:
            allowed = ", ".join(f"{name}=" for name in options)
            raise InputError(f"unknown word {word!r}; allowed are {allowed}")
        options[key] = text
    algorithms, seeds = options["algorithms"].split(","), options["seeds"].split(",")
    if unknown := [name for name in algorithms if name not in SETTINGS]:
        raise InputError(f"algorithms={unknown[0]}; allowed are {', '.join(SETTINGS)}")
    if wrong := [seed for seed in seeds if not seed.isdigit()]:
        raise InputError(f"seeds={wrong[0]}; allowed are whole numbers, as in 0,1,2")
    return algorithms, [int(seed) for seed in seeds], Path(options["output"])


def study() -> None:
    """Trains and plays everything that was asked for, prints and writes it."""
    algorithms, seeds, output = read_words(sys.argv[1:])
    torch.set_num_threads(1)
    data = episodes()
    rows: list[dict[str, Any]] = []
    summary = {"data": returns(data), "seeds": seeds, "versions": versions(), "results": rows}
    with contextlib.suppress(OSError):  # the next line says what is wrong
        output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, summary, "output")  # that it can be, before anything is trained
    for algorithm in algorithms:
        runs = [list(played(algorithm, seed, data)) for seed in seeds]
        for same in zip(*runs, strict=True):
            made = [round(found["made"], 2) for found in same]
            row = {"algorithm": algorithm, **same[0], "made": made}
            rows.append(row)
            known = "as much as 20" if row["known"] is None else f"{row['known']:.2f}"
            print(f"{algorithm:22}{row['what']:32}known {known:16}made {made}", flush=True)
        write_json(output, summary, "output")


def returns(data: list[dict[str, Any]]) -> dict[str, float]:
    """Mean and largest return of the episodes."""
    found = [float(episode["rewards"].sum()) for episode in data]
    return {"return_mean": round(float(np.mean(found)), 2), "return_best": round(max(found), 2)}


if __name__ == "__main__":
    main(study)
