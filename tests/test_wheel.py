"""The wheel, used in an empty folder by who has no checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.settings import TINY_RUN

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("configs", "torchrl_td", "LICENSE", "README.md", "pyproject.toml", "setup.py")

# Every command's help, then the demo where its extra is missing: one process, for each takes
# seconds to start.
ASK = """
import json, sys
from importlib.metadata import distribution
from pathlib import Path
import torchrl_td
from torchrl_td.demo import CHECKPOINT
status = {}
commands = distribution("torchrl_td").entry_points.select(group="console_scripts")
for command in commands:
    sys.argv = [command.name, "--help"]
    try:
        status[command.name] = command.load()() or 0
    except SystemExit as ended:
        status[command.name] = ended.code or 0
sys.modules["gymnasium_robotics"] = None
sys.argv = ["td-demo"]
torchrl_td.TDPlannerActor.from_checkpoint(CHECKPOINT)
print(json.dumps([torchrl_td.__file__, status]))
commands["td-demo"].load()()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, for setuptools leaves files behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, source / part)
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(out), str(source))
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it is installed, beside what it depends on."""
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-index", "--no-compile", "--target", str(folder), str(wheel))
    return folder


def pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def run(installed: Path, cwd: Path, *words: str, status: int = 0) -> subprocess.CompletedProcess:
    env = os.environ | {"PYTHONPATH": str(installed), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == status, done.stderr[-3000:]
    return done


def test_it_is_small_and_whole(wheel: Path) -> None:
    assert wheel.stat().st_size < 5_000_000
    held = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("configs", "torchrl_td"):
        for file in (ROOT / folder).rglob("*.*"):
            name = file.relative_to(ROOT).as_posix().replace("configs/", "torchrl_td/configs/", 1)
            assert not file.is_file() or "__pycache__" in name or name in held, name


def test_every_command_says_how_to_call_it(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "-c", ASK, status=2)
    module, status = json.loads(done.stdout.splitlines()[-1])
    assert Path(module).is_relative_to(installed)
    assert status == dict.fromkeys(("td-offline", "td-evaluate", "td-data", "td-demo"), 0)
    for command in status:
        assert f"\n    {command} " in done.stdout or f"\n{command} " in done.stdout
    assert "python examples/" not in done.stdout.replace("python examples/td_offline.py", "", 1)
    assert done.stderr.splitlines()[-1].endswith(": pip install 'torchrl_td[robotics]'")
    assert not list(tmp_path.iterdir())


def test_it_trains_and_a_file_of_ones_own_comes_first(
    installed: Path, tmp_path: Path, tiny_pointmaze: str
) -> None:
    own = tmp_path / "own" / "task" / "pointmaze" / "umaze.yaml"
    own.parent.mkdir(parents=True)
    task = (installed / "torchrl_td/configs/task/pointmaze/umaze.yaml").read_text(encoding="utf-8")
    own.write_text(task.replace("name: pointmaze/umaze", "name: mine"), encoding="utf-8")
    words = (*TINY_RUN, f"dataset.source={tiny_pointmaze}", "output_dir=run")
    run(installed, tmp_path, str(installed / "bin" / "td-offline"), "--config-dir", "own", *words)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["task"] == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"own", "run"}
