"""The baseline that a planner's command trains beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from torchrl_td.config import CONFIGS, Config
from torchrl_td.errors import InputError
from torchrl_td.experiment.beside import baseline_beside as beside_a_planner
from torchrl_td.experiment.cli import print_results
from torchrl_td.experiment.run import run
from torchrl_td.experiment.run_folder import read_settings

SHORT = """
algorithm: {name: bc, hidden_dims: [16]}
training: {steps: 5, batch_size: 16, decay_steps: "${training.steps}"}
output_dir: outputs/${task.name}
"""


def baseline_beside(folder: Path, configs: Sequence[Path]) -> Config | None:
    """Of a run that is in its folder."""
    return beside_a_planner(read_settings(folder), folder, configs)


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    (tmp_path / "configs" / "algorithm").mkdir(parents=True)
    (tmp_path / "configs" / "algorithm" / "bc.yaml").write_text(SHORT)
    return tmp_path / "configs"


def test_weights_to_start_from_are_the_planners_alone(
    tiny_config: Callable[..., Config], tmp_path: Path, configs: Path
) -> None:
    """The command ended in an error in place of its table."""
    run(tiny_config("training.stop_after=1"))
    second = tmp_path / "second"
    words = (f"init_from={tmp_path / 'run'}", "init_normalizer=fit", f"output_dir={second}")
    run(tiny_config("evaluation.baseline=bc", "training.stop_after=1", *words))
    config = baseline_beside(second, [configs])
    assert config is not None and (config.init_from, config.init_normalizer) == (None, "keep")


def test_is_trained_on_the_same_and_stands_in_the_same_table(
    tiny_config: Callable[..., Config],
    tmp_path: Path,
    configs: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    planner = run(tiny_config("evaluation.baseline=bc", "seed=3", "training.stop_after=null"))
    config = baseline_beside(tmp_path / "run", [configs])
    assert config is not None
    assert (config.seed, config.training.steps, config.training.decay_steps) == (3, 5, 5)
    beside = run(config)
    assert (tmp_path / "run" / "bc" / "results.json").is_file()
    assert beside["dataset"] == planner["dataset"] and beside["training_steps"] == 5
    print_results(planner, beside)
    lines = capsys.readouterr().out.splitlines()
    names = [line.split("  ")[0] for line in lines[-3:]]
    assert names == ["planner, generator alone", "planner, refined", "bc"]
    again = baseline_beside(tmp_path / "run", [configs])  # as after an interruption
    assert again is not None
    assert run(again)["results"][0]["returns"] == beside["results"][0]["returns"]


def test_a_file_of_ones_own_stands_for_the_packages(
    tiny_config: Callable[..., Config], tmp_path: Path, configs: Path
) -> None:
    run(tiny_config("evaluation.baseline=bc", "training.stop_after=1"))
    mine, empty = tmp_path / "mine" / "algorithm", tmp_path / "empty"
    mine.mkdir(parents=True)
    (mine / "bc.yaml").write_text(SHORT.replace("steps: 5", "steps: 3"))
    config = baseline_beside(tmp_path / "run", [empty, mine.parent, configs])
    assert config is not None and config.training.steps == 3
    config.training.stop_after = 1
    run(config)
    again = baseline_beside(tmp_path / "run", [configs])  # resumed without naming the file's folder
    assert again is not None and again.training.steps == 3
    again.training.stop_after = None
    assert run(again)["training_steps"] == 3


def test_is_left_out_where_there_is_none_to_train(
    tiny_config: Callable[..., Config],
    tmp_path: Path,
    configs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(tiny_config("training.stop_after=1"))
    assert baseline_beside(tmp_path / "run", [configs]) is None  # null: none is wanted
    run(tiny_config("training.stop_after=1", "evaluation.baseline=bc", f"output_dir={tmp_path}/b"))
    assert baseline_beside(tmp_path / "b", [configs]) is not None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert baseline_beside(tmp_path / "b", [configs]) is None
    with pytest.raises(InputError, match=r"evaluation\.baseline='best'; allowed are bc, bc_best"):
        tiny_config("evaluation.baseline=best")


class _Unbounded(gymnasium.ActionWrapper):
    """PointMaze for actions of any size."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.action_space = gymnasium.spaces.Box(-np.inf, np.inf, env.action_space.shape)

    def action(self, action: np.ndarray) -> np.ndarray:
        return np.clip(action, -1, 1)


gymnasium.register(
    "Unbounded-v0", lambda **words: _Unbounded(gymnasium.make("PointMaze_UMaze-v3", **words))
)


def test_one_that_cannot_act_there_is_refused_before_the_planner_is_trained(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    """It was refused in place of the table, hours later."""
    words = ("task.env=Unbounded-v0", "evaluation.baseline=iql", "training.stop_after=1")
    with pytest.raises(InputError, match="iql keeps actions within the environment's bounds"):
        run(tiny_config(*words), configs=[CONFIGS])
    assert not (tmp_path / "run" / "config.yaml").exists()
    words = ("evaluation.baseline=decision_diffuser", "training.stop_after=1")
    config = tiny_config(*words)
    config.generator.kind, config.refiner.kind = "plan", "mlp"
    config.task.horizon = 31  # which these do not read
    with pytest.raises(InputError, match=r"baseline=decision_diffuser, which null .* divisible"):
        run(config, configs=[CONFIGS])


def test_to_try_one_changes_no_draw(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    words = ("evaluation.baseline=iql", "evaluation.episodes=1")
    tried = run(tiny_config(*words), configs=[CONFIGS])
    plain = run(tiny_config(*words, f"output_dir={tmp_path / 'plain'}"))
    assert tried["results"][0]["returns"] == plain["results"][0]["returns"]
