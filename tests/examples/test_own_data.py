"""A user's own data, from the file that `describe` writes to a planner that plays."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from tensordict import TensorDict

from tests import small_envs
from tests.settings import CONFIGS, TINY_RUN
from torchrl_td import InputError
from torchrl_td.commands.data import main as td_data
from torchrl_td.config import Config, check_config
from torchrl_td.data import load_episodes
from torchrl_td.data.mazes.record_policy import make_environment, random_policy, record_dataset
from torchrl_td.data.source_info import SourceInfo, source_info
from torchrl_td.data.task_file import write_task
from torchrl_td.experiment.run import run

TINY = tuple(word for word in TINY_RUN if not word.startswith("task."))


@pytest.fixture(scope="module")
def recorded(datasets_path: Path) -> dict[str, str]:
    """Sources of random episodes, by their environment."""
    small_envs.register()
    found = {}
    for env_id, name in (("Pendulum-v1", "pendulum"), ("Mixed-v0", "mixed")):
        env = make_environment(env_id)
        dataset = f"own/{name}-v0"
        record_dataset(env, dataset, random_policy(env), 800, overwrite=True, progress=False)
        found[env_id] = f"minari:{dataset}"
    return found


def composed_of(folder: Path, *words: str) -> Config:
    """What hydra makes of `--config-dir folder`, as the program gives it."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        search = f"hydra.searchpath=[file://{folder}]"
        return check_config(compose("td_offline", overrides=[search, *words]))


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Mixed-v0"])
def test_settings_are_written_from_data_and_trained_on(
    env_id: str, recorded: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my_task.yaml"
    # The data holds Mixed's phase as a number, the environment gives it one-hot.
    keys = ["clock", "count", "robot/lidar", "robot/position"] if env_id == "Mixed-v0" else []
    entries = ["--observation-keys", *keys] if keys else []
    td_data(["describe", recorded[env_id], *entries, "--write-task", str(file)])
    assert f"--config-dir {tmp_path} task=my_task" in capsys.readouterr().out
    written = (tmp_path / "task" / "my_task.yaml").read_text()
    task = written[written.index("task:\n") : written.index("dataset:")].splitlines()
    assert all(" # " in line for line in task[1:] if line)
    named = yaml.safe_load(written)["task"]["env"]
    assert named == (env_id if env_id == "Pendulum-v1" else None)  # recorded without its class
    words = (f"output_dir={tmp_path / 'run'}", f"task.env={env_id}", "task.max_episode_steps=12")
    config = composed_of(tmp_path, "task=my_task", "task.horizon=8", *TINY, *words)
    assert config.task.name == "my_task" and config.dataset.source == recorded[env_id]
    alone, refined = run(config)["results"]
    assert alone["lengths"] == [12, 12] == refined["lengths"]


def episodes(lengths: list[int], reward: float = 1.0) -> TensorDict:
    """Episodes of a state that drifts by a thousandth of its spread a step."""
    count = sum(lengths)
    state = torch.arange(count + 1.0).unsqueeze(-1).repeat(1, 2)
    ends = torch.zeros(count, 1, dtype=torch.bool)
    ends[torch.tensor(lengths).cumsum(0) - 1] = True
    steps = TensorDict(
        observation=state[:-1],
        action=torch.rand(count, 1),
        next=TensorDict(
            observation=state[1:],
            reward=torch.full((count, 1), reward),
            truncated=ends,
            batch_size=[count],
        ),
        batch_size=[count],
    )
    return load_episodes(steps)


def test_values_are_the_datas(tmp_path: Path) -> None:
    info = SourceInfo(environment="mine.module:Arm-v0")
    file = write_task(tmp_path / "arm.yaml", "d4rl:arm.hdf5", episodes([40, 20, 40]), info)
    read = yaml.safe_load(file.read_text())
    task = read["task"]
    # A module that the data names is not imported for it.
    assert task["env"] is None and "mine.module:Arm-v0" in file.read_text()
    assert task["max_episode_steps"] == 40 and task["horizon"] == 16
    assert (task["score_min"], task["score_max"]) == (20, 40)
    assert task["scored"] is False  # so that the target return is read
    assert task["target_return"] == 40 and task["returns_scale"] == 20
    # 100 steps in all have a spread of 29: a plan of 8 steps stays below half of it, and in an
    # episode's quarter, which one of 16 does not.
    assert task["stride"] == 2
    assert read["dataset"]["validation_share"] == 0.34  # one of three is held out
    with pytest.raises(InputError, match=r"arm\.yaml exists already; remove it"):
        write_task(tmp_path / "arm.yaml", "d4rl:arm.hdf5", episodes([40]), info)
    with pytest.raises(InputError, match="a task's file is named like"):
        write_task(tmp_path / "arm", "d4rl:arm.hdf5", episodes([40]), info)
    known = SourceInfo("Hopper-v5", None, None, -20.0, 3000.0, {"a": [1]}, 1000)
    file = write_task(tmp_path / "task" / "hop.yaml", "d4rl:hop.hdf5", episodes([40]), known)
    assert file == tmp_path / "task" / "hop.yaml"
    task = yaml.safe_load(file.read_text())["task"]
    assert (task["env"], task["env_kwargs"]) == ("Hopper-v5", {"a": [1]})
    assert (task["score_max"], task["max_episode_steps"]) == (3000.0, 1000)


def test_episodes_shorter_than_the_usual_plan_are_trained_on(tmp_path: Path) -> None:
    file = write_task(tmp_path / "arm.yaml", "d4rl:arm.hdf5", episodes([3, 2]), SourceInfo())
    assert yaml.safe_load(file.read_text())["task"]["strided_horizon"] == 3


def test_a_key_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    file = write_task(tmp_path / "arm.yaml", "d4rl:arm.hdf5", episodes([40, 20]), SourceInfo())
    file.write_text(file.read_text().replace("  stride:", "  strides:"))
    with pytest.raises(
        InputError, match=r"unknown setting 'task\.strides'; allowed are "
    ) as caught:
        composed_of(tmp_path, "task=arm", "evaluation.episodes=0")
    assert "\n" not in str(caught.value)


def test_a_file_without_its_first_line(tmp_path: Path) -> None:
    file = write_task(tmp_path / "arm.yaml", "d4rl:arm.hdf5", episodes([40, 20]), SourceInfo())
    file.write_text(file.read_text().replace("# @package _global_\n", ""))
    with pytest.raises(InputError, match=r"'task\.task' \(a file .* begins with '# @package _glob"):
        composed_of(tmp_path, "task=arm", "evaluation.episodes=0")


def test_minari_metadata_is_not_believed(datasets_path: Path) -> None:
    """What the data says its environment was made with is plain settings, or left out."""
    env = gymnasium.make("Pendulum-v1", g=9.0)
    record_dataset(env, "own/kwargs-v0", random_policy(env), 200, overwrite=True, progress=False)
    data = datasets_path / "own" / "kwargs-v0" / "data" / "metadata.json"
    metadata = json.loads(data.read_text())
    spec = json.loads(metadata["env_spec"])
    spec["kwargs"] |= {"render_mode": "human", "path": "${oc.env:HOME}"}
    data.write_text(json.dumps(metadata | {"env_spec": json.dumps(spec)}))
    info = source_info("minari:own/kwargs-v0")
    assert info.environment_kwargs == {"g": 9.0} and info.max_episode_steps == 200
