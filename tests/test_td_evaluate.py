"""A trained planner evaluated again, as `td-evaluate` does, and the words that it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoints import untrained_checkpoint
from torchrl_td.config import Config
from torchrl_td.demo import CHECKPOINT
from torchrl_td.errors import InputError
from torchrl_td.experiment.checkpoint_evaluation import evaluate_checkpoint
from torchrl_td.experiment.cli import print_results
from torchrl_td.experiment.run import run


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "which checkpoint"),
        (["checkpoint=/no/such"], "the path does not exist"),
        (["checkpoint=x", "training.steps=1"], "cannot be changed after training"),
        (["checkpoint=x", "device=toaster"], "device=toaster cannot be used"),
        (["checkpoint=x", "task.target_return=9"], r"give evaluation\.target_return$"),
        (["checkpoint=x", "task.refine_steps=9"], r"give planner\.refine_steps$"),
        (["checkpoint=x", "task.guidance_scale=9"], r"give planner\.guidance_scale$"),
        (["checkpoint=x", "task.horizon=16"], r"'task\.horizon' cannot be changed .* task\.env,"),
        (["checkpoint=x", "task.env_kwarg=1"], r"'task\.env_kwarg' cannot be changed"),
        (["checkpoint=x", "env=1"], "'env' cannot be changed"),
        (["checkpoint={demo}", "evaluation.episodes=0"], "plays nothing; give how many"),
        (["checkpoint=x", "evaluation.baseline=rcbc"], r"give the baseline's own checkpoint"),
        (["checkpoint={demo}", "evaluation.target_return=9"], "9 is not read: .* for no return"),
        (["checkpoint=x", "output=."], r"cannot write output=\.: it is a folder"),
        (
            ["checkpoint=x", f"output={__file__}/x.json"],
            "cannot write output=.*: File exists: .*py;",
        ),
    ],
)
def test_wrong_words_of_evaluation(words: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        evaluate_checkpoint([word.format(demo=CHECKPOINT) for word in words])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("env", "has"), [("CartPole-v1", "2 choices"), ("Hopper-v5", "3 numbers")])
def test_an_environment_of_other_actions_is_refused(env: str, has: str, tmp_path: Path) -> None:
    path = untrained_checkpoint(tmp_path)
    with pytest.raises(InputError, match=f"action is of {has}, what was trained .* writes 1 num"):
        evaluate_checkpoint([f"checkpoint={path}", "evaluation.episodes=1", f"task.env={env}"])


def test_evaluates_a_checkpoint_with_other_settings(
    tiny_config: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """With a floor under the returns, which depends on the target of the evaluation itself."""
    run(tiny_config("training.steps=2", "planner.refine_steps=0"))
    words = ["planner.returns_floor_share=0.5", "evaluation.target_return=80", "device=cpu"]
    words += ["evaluation.compile=none", "task.max_episode_steps=5", "task.reset_options={}"]
    output = tmp_path / "new" / "out.json"  # in a folder that is not there yet
    quoted = [f'checkpoint="{tmp_path / "run"}"', f"output='{output}'"]  # as for td-offline
    summary = evaluate_checkpoint([*quoted, *words])
    assert summary["target_return"] == 80 and len(summary["results"]) == 1
    assert summary["results"][0]["compile"] == "none"
    assert summary["results"][0]["lengths"] == [5, 5]
    assert json.loads(output.read_text()) == summary
    trained = json.loads((tmp_path / "run" / "results.json").read_text())
    assert trained["settings"]["task"].pop("max_episode_steps") == 12
    assert summary["settings"]["task"].pop("max_episode_steps") == 5
    assert trained["settings"] == summary["settings"]  # what was trained and how it is scored
    trained["planner"]["returns_floor_share"] = 0.5
    assert trained["planner"] == summary["planner"]
    print_results(summary)
    table = capsys.readouterr().out.splitlines()
    assert "generator alone" in table[-1]
    with pytest.raises(InputError, match=r"unknown setting 'planner\.refine_step'"):
        evaluate_checkpoint([f"checkpoint={tmp_path / 'run'}", "planner.refine_step=1"])


@pytest.mark.stranger("machines")
def test_results_are_shown_though_their_file_cannot_be_written(
    small_disk: Path, tmp_path: Path
) -> None:
    """A disk that is full is refused before anything is played; one that fills up, after it."""
    path, output, shown = untrained_checkpoint(tmp_path), small_disk / "out.json", []
    words = [f"checkpoint={path}", "evaluation.episodes=1", "task.max_episode_steps=3"]
    words += [f"output={output}", "device=cpu"]

    def fill() -> None:
        with pytest.raises(OSError), (small_disk / "full").open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()

    with pytest.raises(InputError, match=r"write to output: .*No space left.*another output"):
        evaluate_checkpoint(words, show=lambda summary: (shown.append(summary), fill()))
    assert shown[0]["results"][0]["lengths"] == [3]
    with pytest.raises(InputError, match=r"cannot write output=.*out\.json: No space left"):
        evaluate_checkpoint(words, show=shown.append)
    assert len(shown) == 1
