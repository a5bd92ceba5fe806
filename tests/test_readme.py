"""What the README shows runs: its Python as it stands, of its commands the settings."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from tests.checkpoints import untrained_checkpoint
from tests.data.conftest import write
from tests.data.helpers import SAMPLE
from tests.settings import composed

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [
    line.partition(" #")[0].split()
    for block in re.findall(r"^```bash\n(.*?)^```", README, re.M | re.S)
    for line in block.splitlines()
    if "-m venv" not in line
]


def gathered() -> TensorDictReplayBuffer:
    """What a collector could have gathered: one episode."""
    done = torch.arange(5).unsqueeze(-1) == 4
    steps = TensorDict(
        observation=torch.randn(5, 3),
        action=torch.randn(5, 2),
        next=TensorDict(
            observation=torch.randn(5, 3),
            reward=torch.ones(5, 1),
            done=done,
            terminated=torch.zeros_like(done),
            truncated=done,
            batch_size=[5],
        ),
        batch_size=[5],
    )
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(5))
    buffer.extend(steps)
    return buffer


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    untrained_checkpoint(tmp_path / "runs" / "first" / "checkpoint")
    write("mujoco/hopper/medium-v0")
    shutil.copy(SAMPLE, "door-human-v0.hdf5")
    names: dict[str, Any] = {"replay_buffer": gathered()}
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    assert names["rollout"]["action"].shape == (20, 1)
    assert len(names["episodes"]) == 5


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_command_lines_are_of_settings_that_there_are(line: list[str]) -> None:
    script = next(number for number, word in enumerate(line) if word.endswith(".py"))
    assert (ROOT / line[script]).is_file()
    words = [word for word in line[script + 1 :] if word != "-m"]
    if line[script] == "examples/td_offline.py":
        composed(*(word.partition(",")[0] for word in words))
