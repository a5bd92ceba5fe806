"""What holds the refiner back on a small budget, and what frees it.

One generator and one inverse dynamics are trained; then several refiners on the same windows,
each for the same number of steps. Every planner plays the same episodes. Run it with

    python benchmarks/refiner_study.py --steps 3000 --episodes 40

It writes refiner_study.json and refiner_study.md into benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from torchrl_td.actors.td_planner_actor import TDPlannerActor
from torchrl_td.config import CONFIGS, Config, check_config, override_config
from torchrl_td.data import load_episodes
from torchrl_td.experiment.evaluate import evaluate
from torchrl_td.experiment.run_folder import versions
from torchrl_td.training.joint_loss import JointLoss
from torchrl_td.training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = {
    "paper's coordinates": ["refiner.coordinates=absolute"],
    "paper's coordinates, trained on k <= 20": [
        "refiner.coordinates=absolute",
        "refiner.max_step=20",
    ],
    "displacement": ["refiner.coordinates=displacement"],
}
SETTINGS = [(1, 1.1), (2, 1.1), (5, 1.1), (10, 1.1)]  # refine steps, guidance scale


def train(config: Config, episodes, steps: int, parts: list[str], start: Trainer | None) -> Trainer:
    """Trains some parts for a number of steps; the others are taken from ``start``."""
    trainer = Trainer(config, episodes, torch.device("cpu"))
    if start is not None:
        trainer.model.generator.load_state_dict(start.model.generator.state_dict())
        trainer.model.inverse_dynamics.load_state_dict(start.model.inverse_dynamics.state_dict())
    trainer.joint_loss = JointLoss({name: trainer.losses[name] for name in parts})
    for _ in range(steps):
        trainer.train_step()
    return trainer


def score(trainer: Trainer, config: Config, refine_steps: int, guidance_scale: float) -> dict:
    """Plays the evaluation's episodes with one planner setting."""
    config = override_config(
        config,
        [f"planner.refine_steps={refine_steps}", f"planner.guidance_scale={guidance_scale}"],
    )
    actor = TDPlannerActor.from_model(trainer.planner_model(), config)
    result = evaluate(actor, config)
    return {
        "refine_steps": refine_steps,
        "guidance_scale": guidance_scale,
        "score_mean": result.score_mean,
        "score_std": result.score_std,
        "episodes": result.episodes,
    }


def study(config: Config, steps: int) -> dict:
    """Trains and scores every variant."""
    episodes = load_episodes(config.dataset.source)
    base = train(config, episodes, steps, ["generator", "inverse_dynamics"], None)
    displacement = base.model.coordinates.scale
    report = {
        "task": config.task.name,
        "steps": steps,
        "target_return": config.evaluation.target_return,
        "seed": config.seed,
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "noise_scale": {k: base.model.schedule.noise_scale[k].item() for k in (1, 2, 5, 10)},
        "step_change": displacement[1].tolist(),
        "generator alone": score(base, config, 0, 1.1),
        "variants": {},
    }
    for name, overrides in VARIANTS.items():
        started = time.perf_counter()
        settings = override_config(config, overrides)
        trainer = train(settings, episodes, steps, ["refiner"], base)
        rows = [score(trainer, settings, k, omega) for k, omega in SETTINGS]
        report["variants"][name] = {"rows": rows, "seconds": time.perf_counter() - started}
    return report


def to_markdown(report: dict) -> str:
    """The study as a page."""
    alone = report["generator alone"]
    change = ", ".join(f"{value:.3f}" for value in report["step_change"])
    noise = ", ".join(f"k = {k}: {value:.3f}" for k, value in report["noise_scale"].items())
    header = " | ".join(f"k = {k}, ω = {omega}" for k, omega in SETTINGS)
    lines = [
        f"# The refiner on {report['task']}",
        "",
        f"Written by `benchmarks/refiner_study.py`: {report['steps']} training steps a part, one "
        f"training seed ({report['seed']}), {alone['episodes']} episodes each, target return "
        f"{report['target_return']:g}, deterministic planning, preset `small` but for what the "
        f"row says.",
        "",
        f"The generator alone scores {alone['score_mean']:.1f} ± {alone['score_std']:.1f}.",
        "",
        f"| refiner | {header} |",
        "| --- |" + " --- |" * len(SETTINGS),
    ]
    for name, variant in report["variants"].items():
        cells = " | ".join(
            f"{row['score_mean']:.1f} ± {row['score_std']:.1f}" for row in variant["rows"]
        )
        lines.append(f"| {name} | {cells} |")
    lines += [
        "",
        f"Scale of the noise: {noise}. What a normalised state changes by in one step, by "
        f"dimension: {change}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="pointmaze/umaze")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = compose(
            "td_offline",
            [
                f"task={arguments.task}",
                "preset=small",  # whose refiner it is
                f"training.steps={arguments.steps}",
                f"evaluation.episodes={arguments.episodes}",
            ],
        )
    report = study(check_config(composed), arguments.steps)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "refiner_study.json").write_text(json.dumps(report, indent=2) + "\n")
    (arguments.out / "refiner_study.md").write_text(to_markdown(report))


if __name__ == "__main__":
    main()
