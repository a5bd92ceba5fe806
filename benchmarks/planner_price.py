"""What each way of saving work costs: score against milliseconds a step.

    python benchmarks/planner_price.py checkpoint=outputs/pointmaze/umaze-small-seed0/checkpoint
    python benchmarks/planner_price.py checkpoint=... episodes=40 output=price_umaze

Plays the trained task once for each setting: 0, 1, 2, 5 and 10 refine steps by DDPM and by
DDIM (two evaluations where there are more), warm start on and off with replanning every 1, 2 and
4 steps, and warm start that drafts anew where the state left the plan by more than 0.1, 0.2 and
0.5 standard deviations of the data. Writes OUTPUT.json and OUTPUT.png. Milliseconds are those of
a step of one environment, the steps that only follow a plan included, after actor.compile().

Words: checkpoint=, episodes= (at least 20 say something), output=, threads=, timed= (steps),
scores= (a JSON that this script wrote of that checkpoint: its scores are kept, and only the times
measured again, on a quieter machine).
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.ticker import ScalarFormatter
from torchrl.data import Bounded
from torchrl.envs import set_exploration_type
from torchrl.envs.utils import ExplorationType

from torchrl_td import InputError, TDPlannerActor
from torchrl_td.checkpoint import find_checkpoint, load_model
from torchrl_td.commands.usage import help_asked
from torchrl_td.config import Config, PlannerConfig, check_config, override_config
from torchrl_td.envs.make import make_env, opened
from torchrl_td.experiment.cli import main
from torchrl_td.experiment.evaluate import evaluate

DEFAULTS: dict[str, Any] = {
    "checkpoint": "",
    "episodes": 20,
    "output": "price",
    "threads": 1,
    "timed": 200,
    "scores": "",
}
STEPS = (0, 1, 2, 5, 10)
REPLAN = (1, 2, 4)
DISTANCES = (0.1, 0.2, 0.5)
# Played as they are by default where a setting does not name them, whatever the run's own.
STANDARD = ("sampler", "evaluations", "refresh_every", "refresh_distance")


def settings(refine_steps: int, horizon: int) -> list[tuple[str, str, dict[str, Any]]]:
    """Every setting played: which curve, what it is called, and the planner's words."""
    found: list[tuple[str, str, dict[str, Any]]] = []
    for steps in STEPS:
        found.append(("DDPM", f"k={steps}", {"refine_steps": steps, "sampler": "ddpm"}))
        if steps:
            evaluations = min(2, steps)
            words = {"refine_steps": steps, "sampler": "ddim", "evaluations": evaluations}
            found.append(("DDIM, up to 2 evaluations", f"k={steps}", words))
    for warm in ("none", "previous"):
        name = "warm start" if warm == "previous" else "draft anew"
        for every in REPLAN:
            if every < horizon:
                words = {"refine_steps": refine_steps, "warm_start": warm, "replan_every": every}
                found.append((f"{name}, replan every n", f"n={every}", words))
    for distance in DISTANCES:
        words = {"refine_steps": refine_steps, "warm_start": "previous"}
        words["refresh_distance"] = distance
        found.append(("warm start, redraft beyond d", f"d={distance}", words))
    return found


def price() -> None:
    """Plays every setting, prints the table and writes JSON and picture."""
    if help_asked(__doc__):
        return
    options = read_words(sys.argv[1:])
    torch.set_num_threads(options["threads"])
    model, about = load_model(find_checkpoint(options["checkpoint"]), "cpu")
    config = check_config(about["config"])
    spec = Bounded(about["action_low"], about["action_high"], (len(about["action_low"]),))
    output = Path(options["output"])
    output.parent.mkdir(parents=True, exist_ok=True)
    known = played(options["scores"], config, about)
    rows: list[dict[str, Any]] = []
    print(f"{'curve':32}{'setting':>9}{'score':>9}{'± std':>8}{'ms a step':>11}{'p95':>9}")
    for curve, label, words in settings(config.task.refine_steps, config.task.horizon):
        given = {key: getattr(PlannerConfig(), key) for key in STANDARD} | words
        changed = override_config(
            config,
            [f"planner.{k}={'null' if v is None else v}" for k, v in given.items()],
        )
        actor = TDPlannerActor.from_model(model, changed, spec).eval().compile()
        score = known.get((curve, label)) or play(actor, changed, options["episodes"])
        times = step_times(actor, changed, options["timed"])
        row = {
            "curve": curve,
            "setting": label,
            "planner": words,
            **score,
            "ms_mean": round(statistics.mean(times), 3),
            "ms_median": round(statistics.median(times), 3),
            "ms_p95": round(sorted(times)[int(0.95 * len(times))], 3),
        }
        rows.append(row)
        print(
            f"{curve:32}{label:>9}{row['score_mean']:9.1f}{row['score_std']:8.1f}"
            f"{row['ms_mean']:11.2f}{row['ms_p95']:9.2f}",
            flush=True,
        )
        write(output, rows, config, about, options)


def play(actor: TDPlannerActor, config: Config, episodes: int) -> dict[str, float]:
    """The score of whole episodes."""
    result = evaluate(actor, config, episodes)
    return {
        "score_mean": round(result.score_mean, 2),
        "score_std": round(result.score_std, 2),
        "episodes": result.episodes,
    }


def played(path: str, config: Config, about: Any) -> dict[tuple[str, str], dict[str, float]]:
    """The scores in a file of this script, by curve and setting; none without a file."""
    if not path:
        return {}
    before = json.loads(Path(path).read_text(encoding="utf-8"))
    if (before["task"], before["training_steps"]) != (config.task.name, about["step"]):
        raise InputError(f"scores={path} is of another run; leave it out to play again")
    kept = ("score_mean", "score_std", "episodes")
    return {(r["curve"], r["setting"]): {k: r[k] for k in kept} for r in before["results"]}


def step_times(actor: TDPlannerActor, config: Config, count: int) -> list[float]:
    """Milliseconds the actor takes at each step of one environment."""
    env = make_env(
        config.task,
        1,
        target_return=config.evaluation.target_return,
        seed=config.evaluation.seed,
        primer=actor.make_tensordict_primer(),
    )
    times = []
    # Until then weights are packed and tapes recorded, that of a warm start's second draft last.
    horizon = actor.receding_horizon
    settled = (horizon.refresh_every + 2) * horizon.replan_every
    with opened(env), torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        step = env.reset()
        for i in range(count + settled):
            start = time.perf_counter()
            step = actor(step)
            if i >= settled:
                times.append(1e3 * (time.perf_counter() - start))
            _, step = env.step_and_maybe_reset(step)
    return times


def write(
    output: Path, rows: list[dict[str, Any]], config: Config, about: Any, options: dict[str, Any]
) -> None:
    """Writes the JSON and the picture of the rows so far."""
    summary = {
        "task": config.task.name,
        "environment": config.task.env,
        "preset": config.preset,
        "training_steps": about["step"],
        "target_return": config.evaluation.target_return,
        "threads": options["threads"],
        "torch": torch.__version__,
        "results": rows,
    }
    output.with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for curve in dict.fromkeys(row["curve"] for row in rows):
        points = [row for row in rows if row["curve"] == curve]
        x, y = [p["ms_mean"] for p in points], [p["score_mean"] for p in points]
        error = [p["score_std"] / p["episodes"] ** 0.5 for p in points]
        axes.errorbar(x, y, error, marker="o", capsize=2, label=curve)
        for p in points:
            axes.annotate(
                p["setting"],
                (p["ms_mean"], p["score_mean"]),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=7,
            )
    axes.set(
        xscale="log",
        xlabel="milliseconds a step, one environment",
        ylabel="score (mean and its standard error)",
        title=f"{config.task.name}, preset {config.preset}, {about['step']} steps",
    )
    for formatted in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        formatted(ScalarFormatter())
    axes.legend(fontsize=8)
    figure.savefig(output.with_suffix(".png"), dpi=120)
    plt.close(figure)


def read_words(words: list[str]) -> dict[str, Any]:
    """The options from ``key=value`` words."""
    options = dict(DEFAULTS)
    for word in words:
        key, separator, text = word.partition("=")
        if not separator or key not in DEFAULTS:
            allowed = ", ".join(f"{name}=" for name in DEFAULTS)
            raise InputError(f"unknown word {word!r}; allowed are {allowed}")
        if isinstance(DEFAULTS[key], int):
            if not text.isdigit() or int(text) < 1:
                raise InputError(f"{key}={text}; allowed is a whole number above 0")
            options[key] = int(text)
        else:
            options[key] = text
    if not options["checkpoint"]:
        raise InputError("which checkpoint? give checkpoint=<output_dir>/checkpoint")
    return options


if __name__ == "__main__":
    main(price)
