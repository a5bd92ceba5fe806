"""The pictures: not empty, of the right places, and a machine without a screen is no error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from PIL import Image
from tensordict import TensorDict

from torchrl_td.config import Config
from torchrl_td.envs.make import make_gym_env
from torchrl_td.errors import InputError
from torchrl_td.experiment import plotting, rendering
from torchrl_td.experiment.logging import MetricsFile
from torchrl_td.experiment.plotting import _draw_scores, draw_frame, plot_plans, plot_training
from torchrl_td.experiment.run import run


def rollout(steps: int, width: int, horizon: int = 8) -> TensorDict:
    states = torch.randn(steps, width).cumsum(0) * 0.05
    done = torch.zeros(steps, 1, dtype=torch.bool)
    done[-1] = True
    return TensorDict(
        {
            "observation": states,
            "desired_goal": torch.tensor([1.0, -2.0]).expand(steps, 2),
            "action": torch.zeros(steps, 3),
            "plan": {
                "draft": states.unsqueeze(1).repeat(1, horizon, 1),
                "refined": states.unsqueeze(1).repeat(1, horizon, 1),
            },
            "next": {"done": done},
        },
        batch_size=[steps],
    )


def colours(path: Path) -> int:
    pixels = (imread(path)[..., :3] * 255).astype(np.uint8)
    return len(np.unique(pixels.reshape(-1, 3), axis=0))


def test_training_curves(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.csv")
    for step in range(1, 4):
        metrics.write(step, {"train/loss_refiner": 1 / step, "train/loss_generator": 2 / step})
    metrics.write(3, {"validation/loss_refiner": 0.5, "validation/loss_refiner_ema": 0.4})
    metrics.write(3, {"evaluation/score/refined": 100.0, "evaluation/score_std/refined": 3.0})
    plot_training(metrics, tmp_path / "training.png", episodes=40)
    assert colours(tmp_path / "training.png") > 20


def test_scores_have_error_bars_and_an_axis_that_does_not_magnify_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = MetricsFile(tmp_path / "metrics.csv")
    for step, score in ((1, 41.2), (2, 42.1)):
        metrics.write(
            step, {"evaluation/score/refined": score, "evaluation/score_std/refined": 20.0}
        )
    seen: list[Any] = []
    monkeypatch.setattr(
        "torchrl_td.experiment.plotting._save", lambda figure, _: seen.append(figure)
    )
    plot_training(metrics, tmp_path / "training.png", episodes=16)
    axis = seen[0].axes[-1]
    assert axis.get_ylim() == (0.0, 100.0)
    (bars,) = axis.containers
    ends = np.array([segment[:, 1] for segment in bars.lines[2][0].get_segments()])
    np.testing.assert_allclose(ends, [[s - 9.8, s + 9.8] for s in (41.2, 42.1)], atol=1e-6)


def test_training_curves_of_nothing(tmp_path: Path) -> None:
    plot_training(MetricsFile(tmp_path / "metrics.csv"), tmp_path / "training.png", episodes=40)
    assert (tmp_path / "training.png").exists()


@pytest.mark.parametrize("width", [6, 4])  # PointMaze shows the goal, Maze2D does not
def test_plans_in_a_maze(
    width: int,
    tiny_config: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env, seen, save = make_gym_env(tiny_config().task), [], plotting._save

    def noted(figure: Figure, path: Path, **layout: Any) -> None:
        seen.append(figure)
        save(figure, path, **layout)

    monkeypatch.setattr(plotting, "_save", noted)
    plot_plans(rollout(40, width), tmp_path / "plans.png", env.unwrapped)
    assert colours(tmp_path / "plans.png") > 20
    for axis in seen[0].axes:
        (star,) = (line for line in axis.lines if line.get_label() == "goal")
        assert star.get_marker() == "*"
        np.testing.assert_array_equal(star.get_xydata(), [[1.0, -2.0]])
    maze: Any = env.unwrapped
    frame = draw_frame(rollout(40, 6), 3, maze.maze)
    assert frame.ndim == 3 and frame.dtype == np.uint8 and frame.std() > 0


@pytest.mark.parametrize("steps", [5, 40])
def test_plans_of_states(steps: int, tmp_path: Path) -> None:
    """Episodes shorter than a plan too."""
    plot_plans(rollout(steps, 11), tmp_path / "plans.png", gymnasium.make("Hopper-v5").unwrapped)
    assert colours(tmp_path / "plans.png") > 20


def test_video_of_a_maze(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    path = tmp_path / "rollout.gif"
    assert rendering.show_video(rollout(10, 6), tiny_config(), path)
    with Image.open(path) as video:
        assert video.format == "GIF" and video.n_frames > 4  # type: ignore[attr-defined]
        assert video.info["duration"] == 40  # every second step, at 50 steps a second


class Rendering(gymnasium.Wrapper):
    """Renders noise, as no OpenGL is needed for it."""

    def render(self) -> Any:
        return np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("works", [True, False])
def test_video_of_another_task(
    works: bool,
    tiny_config: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def make(task: Any, render_mode: str | None = None) -> gymnasium.Env:
        if render_mode and not works:
            raise RuntimeError("no OpenGL here\nat all")
        return Rendering(gymnasium.make("Hopper-v5"))

    monkeypatch.setattr(rendering, "make_gym_env", make)
    path = tmp_path / "rollout.gif"
    assert rendering.show_video(rollout(10, 11), tiny_config(), path) == works
    assert path.exists() == works
    config = tiny_config("logger.video=true", "training.steps=1")
    if works:
        rendering.check_video(config.task)
        return
    with pytest.raises(
        InputError, match=r"^logger\.video=true: .* \(no OpenGL here\).*MUJOCO_GL=egl"
    ):
        run(config)
    assert not (tmp_path / "run" / "metrics.csv").exists()  # it is said before training


def test_a_long_episode_is_a_short_video(
    tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "_FRAMES", 7)
    path = tmp_path / "rollout.gif"
    assert rendering.show_video(rollout(40, 6), tiny_config(), path)
    with Image.open(path) as video:
        assert video.n_frames == 7  # type: ignore[attr-defined]
        assert video.info["duration"] == 120  # every sixth of 50 a second: as it was played


def test_every_score_lies_inside_of_the_plot(tmp_path: Path) -> None:
    """A score drawn after another is as visible, its interval's ends included."""

    metrics = MetricsFile(tmp_path / "metrics.csv")
    metrics.write(10, {"evaluation/score/generator": 20.0, "evaluation/score_std/generator": 5.0})
    metrics.write(20, {"evaluation/score/refined": 170.0, "evaluation/score_std/refined": 20.0})
    axis = Figure().subplots()
    for name in ("evaluation/score/generator", "evaluation/score/refined"):
        _draw_scores(axis, metrics, name, 20)
    assert axis.get_ylim()[0] <= 0 and axis.get_ylim()[1] > 170 + 1.96 * 20 / 20**0.5


def test_the_ticks_about_a_single_score_do_not_run_into_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(plotting, "_save", lambda figure, path: drawn.append(figure))
    metrics = MetricsFile(tmp_path / "metrics.csv")
    for name in ("generator", "refined"):
        metrics.write(15000, {f"evaluation/score/{name}": 150.0})
    plot_training(metrics, tmp_path / "training.png", episodes=40)
    assert drawn[0].axes[-1].get_xticks().tolist() == [15000]
    metrics.write(20000, {"evaluation/score/refined": 160.0})
    plot_training(metrics, tmp_path / "training.png", episodes=40)
    assert len(drawn[1].axes[-1].get_xticks()) > 1
