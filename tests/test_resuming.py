"""What resuming refuses, and what may be different in a resumed run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tensordict import TensorDict

from tests.refused import refused
from tests.settings import composed
from torchrl_td.checkpoint import find_checkpoint, load_about
from torchrl_td.config import Config
from torchrl_td.data import load_episodes
from torchrl_td.errors import InputError
from torchrl_td.experiment.resume import _continued, resumed
from torchrl_td.experiment.run import run
from torchrl_td.training.distributed import World

MakeConfig = Callable[..., Config]


def test_refuses_to_resume_nothing(tiny_config: MakeConfig, tmp_path: Path) -> None:
    refused(tiny_config(f"resume={tmp_path / 'no'}"), "nothing to resume")
    refused(tiny_config(f"resume={tmp_path}"), "nothing to resume")


def test_refuses_to_resume_one_checkpoint(tiny_config: MakeConfig, tmp_path: Path) -> None:
    """And leaves nothing in it, for its files are all accounted for."""
    run(tiny_config("training.stop_after=1"))
    (saved,) = (tmp_path / "run" / "checkpoint").glob("step-*")
    before = sorted(saved.rglob("*"))
    for path in (saved, saved / "components"):
        refused(tiny_config(f"resume={path}"), f"nothing to resume in {path}: ")
    refused(tiny_config(f"resume={saved}"), f"newest intact checkpoint: resume={tmp_path / 'run'}")
    assert sorted(saved.rglob("*")) == before
    assert (
        run(tiny_config(f"resume={saved.parent}", "training.stop_after=2"))["training_steps"] == 2
    )


def test_refuses_to_resume_into_another_folder(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run(tiny_config("training.stop_after=1"))
    words = [f"resume={tmp_path / 'run'}", f"output_dir={tmp_path / 'other'}"]
    refused(tiny_config(*words), "output_dir=.*other cannot be given", words)
    assert not (tmp_path / "other").exists()
    words = [words[0], f"output_dir={tmp_path / 'other' / '..' / 'run'}", "training.stop_after=2"]
    assert run(tiny_config(*words), words)["training_steps"] == 2  # the same


@pytest.mark.parametrize("name", ["metrics.csv", "results.json"])
def test_auto_leaves_the_files_of_others_alone(
    name: str, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    refused(tiny_config("resume=auto"), r"holds results, but no config\.yaml")
    assert (tmp_path / "run" / name).read_text() == "mine"


def test_resume_changes_only_the_logger_settings_it_names(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    run(tiny_config("logger=tensorboard", "logger.project=mine", "training.stop_after=1"))
    for stop, word, kind, project in (
        (2, "logger.pictures=true", "tensorboard", "mine"),
        (3, "logger=csv", "csv", "torchrl_td"),  # the whole group
    ):
        words = [f"resume={tmp_path / 'run'}", word, f"training.stop_after={stop}"]
        run(tiny_config(*words), words)
        logger = load_about(find_checkpoint(tmp_path / "run"))["config"]["logger"]
        assert (logger["kind"], logger["project"]) == (kind, project)
        assert logger["pictures"] is (kind == "tensorboard")


def test_resume_without_a_checkpoint_starts_over(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run(tiny_config("training.stop_after=1", "evaluation.episodes=1"))
    import shutil

    shutil.rmtree(tmp_path / "run" / "checkpoint")  # as if killed before the first
    summary = run(tiny_config(f"resume={tmp_path / 'run'}", "training.steps=99"))
    assert summary["training_steps"] == 12  # its own settings


def test_resume_refuses_other_settings(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run(tiny_config("training.stop_after=1"))
    refused(tiny_config("resume=auto", "training.batch_size=8"), "training.batch_size=4, not 8")
    word = f"resume={tmp_path / 'run'}"
    words = [word, "training.batch_size=5"]
    refused(tiny_config(*words), "'training.batch_size' cannot be given", words)
    words = [word, "logger=csv", "training.stop_after=2"]
    assert run(tiny_config(*words), words)["training_steps"] == 2
    # Words are judged by the run's settings, not by those of the default preset.
    words = [word, "task.horizon=9"]
    refused(composed(*words), "'task.horizon' cannot be given", words)
    words = [word, "task=pointmaze/umaze"]  # whose file may say other things by now
    refused(tiny_config(*words), "'task' cannot be given", words)


def test_a_resumed_run_reads_what_its_own_algorithm_does(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    """A baseline beside a run of cloning was accepted, and none was trained."""
    run(tiny_config("algorithm=bc", "training.stop_after=1"))
    words = [f"resume={tmp_path / 'run'}", "evaluation.baseline=rcbc"]
    refused(tiny_config(*words), "algorithm=bc does not read evaluation.baseline", words)


def test_auto_goes_on_though_a_default_that_is_not_read_is_another(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    """As a maze's run of before plans had several networks, which scores still have none of."""
    run(tiny_config("training.stop_after=1", "evaluation.episodes=1", "algorithm=bc"))
    words = ["resume=auto", "evaluation.episodes=1", "algorithm=bc"]
    assert run(tiny_config(*words, "generator.width=32"))["training_steps"] == 12


def test_resume_refuses_changed_data(
    tiny_config: MakeConfig, tmp_path: Path, tiny_pointmaze: str
) -> None:
    data = load_episodes(tiny_pointmaze)
    data = TensorDict(data.to_dict(), batch_size=data.batch_size)
    run(tiny_config("training.stop_after=1"), data=data)
    data["action"][7] += 1e-3
    with pytest.raises(InputError, match="is not the one this run was started on"):
        run(tiny_config("resume=auto"), data=data)


def test_what_is_handed_to_the_environment_may_be_corrected(tiny_config: MakeConfig) -> None:
    """One entry of it, or the whole."""
    stored, given = tiny_config("seed=1"), tiny_config("+task.env_kwargs.speed=3")
    kept = stored.task.env_kwargs.copy()
    assert _continued(stored, given, ["resume=x", "+task.env_kwargs.speed=3"]).task.env_kwargs == {
        **kept,
        "speed": 3,
    }
    given.task.env_kwargs, given.task.reset_options = {"speed": 4}, {}
    assert _continued(stored, given, ["resume=x", "task.env_kwargs={speed: 4}"]).task == replace(
        stored.task, env_kwargs={"speed": 4}
    )


def test_the_goals_that_training_is_told_stay(tiny_config: MakeConfig, tmp_path: Path) -> None:
    """Of a run that is still to train: played anew, they may be others."""
    words = ("preset=strided", "training.steps=2", "output_dir=" + str(tmp_path / "run"))
    run(tiny_config(*words, "training.stop_after=1", "value.played_goal_share=0.5"))
    again = [f"resume={tmp_path / 'run'}", "task.reset_options.goal_cell=[3,1]"]
    given = tiny_config(*words, *again)
    with pytest.raises(InputError, match=r"learns of the goals that are played \(value\.played"):
        resumed(given, tmp_path / "run", again, World())
    run(tiny_config(*words, f"resume={tmp_path / 'run'}", "training.stop_after=null"))
    settings, _ = resumed(given, tmp_path / "run", again, World())
    assert settings.task.reset_options["goal_cell"] == [3, 1]


@pytest.mark.stranger("machines")
def test_data_that_moved_is_named_anew(tiny_config: MakeConfig, tmp_path: Path) -> None:
    """Its hash proves that it is the same."""
    import h5py
    import numpy as np

    draw = np.random.default_rng(0)
    states = draw.normal(size=(61, 6)).astype(np.float32)
    for name, shift in (("here", 0.0), ("there", 0.0), ("other", 1.0)):
        with h5py.File(tmp_path / f"{name}.hdf5", "w") as file:
            file["observations"] = states[:-1] + np.float32(shift)
            file["next_observations"] = states[1:] + np.float32(shift)
            file["actions"] = np.full((60, 2), 0.5, np.float32)
            file["rewards"] = np.ones(60, np.float32)
            file["terminals"] = np.zeros(60, bool)
            file["timeouts"] = np.arange(60) % 12 == 11
    sources = [f"dataset.source=d4rl:{tmp_path / name}.hdf5" for name in ("here", "there", "other")]
    run(tiny_config(sources[0], "training.stop_after=1"))
    (tmp_path / "here.hdf5").unlink()
    word = f"resume={tmp_path / 'run'}"
    refused(
        tiny_config(word, sources[2]), "is not the one this run was started on", [word, sources[2]]
    )
    words = [word, sources[1], "training.stop_after=2"]
    assert run(tiny_config(*words), words)["training_steps"] == 2
