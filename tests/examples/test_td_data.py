"""The data example, as a user runs it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "td_data.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("td_data", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pendulum(example: ModuleType) -> str:
    command = ["record", "Pendulum-v1", "--dataset", "test/example-v0", "--steps", "400"]
    assert example.main(command) == 0
    return "minari:test/example-v0"


def test_record_then_describe(
    example: ModuleType, pendulum: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, numbers = tmp_path / "look.png", tmp_path / "look.json"
    files = ["--picture", str(picture), "--json", str(numbers)]
    references = ["--ref-min", "-1600", "--ref-max", "-150"]
    assert example.main(["describe", pendulum, *files, *references]) == 0
    found = json.loads(numbers.read_text(encoding="utf-8"))
    assert (found["transitions"], found["episodes"], found["truncations"]) == (400, 2, 2)
    assert found["environment"] == "Pendulum-v1" and -100 < found["score"]["mean"] < 100
    out = capsys.readouterr().out
    assert "0 terminations, 2 truncations" in out
    assert f"{found['return']['mean']:.6g}" in out
    # Pendulum's bounds are -2 and 2, kept with the data: nothing lies outside of them.
    assert "warning" not in out
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("describe", "minari:test/absent-v0"), "minari:test/absent-v0"),
        (("describe", "nothing"), "nothing"),
        (("describe", "{pendulum}", "--ref-min", "3"), "--ref-max"),
        (("describe", "{pendulum}", "--picture", "{tmp}/no/such.png"), "there is no folder"),
        (("record", "Pendulum-v1"), "--dataset"),
        (("record", "Nothing-v0", "--dataset", "test/x-v0"), "Nothing-v0"),
        (("record", "Pendulum-v1", "--dataset", "x"), "<namespace>/<name>-v<number>"),
        (("record", "Pendulum-v1", "--dataset", "test/example-v0"), "exists"),
        (("record", "pointmaze/umaze", "--steps", "0"), "steps >= 1"),
        (("record", "Pendulum-v1", "--dataset", "a/b-v0", "--checkpoint", "c"), "--target-return"),
    ],
)
def test_mistakes_are_one_line(
    example: ModuleType,
    pendulum: str,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert example.main([a.format(pendulum=pendulum, tmp=tmp_path) for a in arguments]) == 1
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0] and lines[-1] == errors[0]


@pytest.mark.slow
def test_from_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "describe", "nothing"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
