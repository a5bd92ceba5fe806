"""The planner that comes with the package, and its demonstration."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from torchrl_td.checkpoint import load_model, load_payload
from torchrl_td.commands.demo import td_demo
from torchrl_td.demo import CHECKPOINT, show
from torchrl_td.demo.make import make_small
from torchrl_td.errors import InputError
from torchrl_td.experiment import cli, rendering


@pytest.mark.pictures
def test_it_plays_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rendering, "_FRAMES", 4)
    for display in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(display, raising=False)
    monkeypatch.setattr(sys, "argv", ["td-demo", "--output", str(tmp_path / "new" / "pictures")])
    cli.main(td_demo)
    first, *files = capsys.readouterr().out.splitlines()
    # A planner that does nothing scores below 0, and the data 103.9.
    assert first.startswith("score 1") and first.endswith("the data's mean is 103.9")
    plans, walk = (Image.open(line.partition(": ")[2]) for line in files)
    assert plans.format == "PNG" and walk.format == "GIF" and walk.n_frames == 4


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write to .*file: File exists; name another"):
        show(tmp_path / "file")
    monkeypatch.setattr(sys, "argv", ["td-demo", "--seed", "-4"])
    with pytest.raises(InputError, match="--seed must be at least 0, got -4"):
        td_demo()
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    with pytest.raises(InputError, match=r"needs gymnasium-robotics: pip install .*\[robotics\]'"):
        show(tmp_path)


def test_a_checkpoint_is_made_small(tmp_path: Path) -> None:
    """Half precision is read as full; the demo's own, made again, stays as it is."""
    small = make_small(CHECKPOINT, tmp_path)
    weights = load_payload(small, "planner", "cpu")
    assert any(value.dtype == torch.float16 for value in weights.values())
    assert sum(file.stat().st_size for file in small.rglob("*") if file.is_file()) < 700_000
    model, about = load_model(small)
    assert {value.dtype for value in model.state_dict().values()} <= {torch.float32, torch.int64}
    again = load_model(CHECKPOINT)[0].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    assert about["config"]["output_dir"] == "outputs/demo" and "path" not in about["dataset"]
    assert load_payload(small, "training", "cpu") == {}
