"""A trained planner that comes with the package, and what it takes to see it plan."""

from __future__ import annotations

from pathlib import Path

from torchrl_td.actors.td_planner_actor import TDPlannerActor
from torchrl_td.advice import install
from torchrl_td.checkpoint import find_checkpoint, load_about
from torchrl_td.config import check_config
from torchrl_td.data.robotics import register_robotics
from torchrl_td.errors import InputError
from torchrl_td.experiment.evaluate import normalized_score
from torchrl_td.experiment.plotting import skipped_on_error
from torchrl_td.experiment.rendering import play_one, show_plans, show_video

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""Of a planner for PointMaze umaze, in half precision; README.md beside it says where from."""


def show(folder: Path, seed: int = 1000) -> tuple[float, float]:
    """Plays one episode with the planner that comes with the package, and draws it.

    Args:
        folder: where ``plans.png`` and ``rollout.gif`` go.
        seed: of the episode's start.

    Returns:
        The episode's score, and the mean score of the data that the planner learned from.

    Raises:
        InputError: if gymnasium-robotics is missing, or the folder cannot be written.
    """
    try:
        register_robotics()
    except ImportError:
        raise InputError(
            f"the demo plays PointMaze, which needs gymnasium-robotics: {install('robotics')}"
        ) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; name another") from None
    about = load_about(find_checkpoint(CHECKPOINT))
    config = check_config(about["config"])
    config.evaluation.seed = seed
    rollout = play_one(TDPlannerActor.from_checkpoint(CHECKPOINT), config)
    with skipped_on_error(folder / "plans.png"):
        show_plans(rollout, config.task, folder / "plans.png")
    with skipped_on_error(folder / "rollout.gif"):
        show_video(rollout, config, folder / "rollout.gif")
    score = normalized_score(float(rollout["next", "reward"].sum()), config.task)
    return score, about["dataset"]["score_mean"]
