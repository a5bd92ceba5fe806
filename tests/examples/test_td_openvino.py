"""An exported planner, run where there is neither torch nor this library."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from tests.planner.helpers import act
from tests.tiny import tiny_actor
from torchrl_td import InputError, TDPlannerActor
from torchrl_td.inference.openvino_model import import_openvino, openvino_installed

if not openvino_installed():
    pytest.skip("needs OpenVINO", allow_module_level=True)
import_openvino()
from examples.td_openvino import ExportedPlanner  # noqa: E402

ABSENT = ("torch", "torchrl", "tensordict", "torchrl_td", "openvino_telemetry")
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "td_openvino.py"
QUICK = {
    "horizon": 4,
    "layers": 1,
    "refiner": {"refine_steps": 1, "guidance_scale": 1.0},
}


def both(actor: TDPlannerActor, exported: ExportedPlanner, batch: int, steps: int) -> None:
    """Plays some steps with either, one environment reset in the middle."""
    state = actor.planner_spec.zero([batch])
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        is_init = torch.full((batch, 1), step == 0)
        is_init[0] |= step == 3
        td = TensorDict(
            observation=torch.randn(batch, 6, generator=generator),
            target_return=torch.full((batch, 1), 90.0 - step),
            is_init=is_init,
            planner=state,
            batch_size=[batch],
        )
        want = act(actor, td)
        got = exported.act(td["observation"].numpy(), td["target_return"].numpy(), is_init.numpy())
        for name, key in (
            ("action", "action"),
            ("draft", ("plan", "draft")),
            ("refined", ("plan", "refined")),
        ):
            np.testing.assert_allclose(got[name], want[key].numpy(), rtol=1e-4, atol=1e-4)
        state = want["next", "planner"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "batch", "models"),
    [
        ({"returns_floor": 88.0}, 1, {"plan"}),
        (
            {"warm_start": "previous", "replan_every": 2, "refresh_distance": 1.2},
            3,
            {"plan", "replan", "follow"},
        ),
    ],
)
def test_an_exported_planner_acts_as_the_actor(tmp_path: Path, settings, batch: int, models):
    actor = tiny_actor(**QUICK, **settings)
    folder = actor.export(tmp_path / "exported", batch_size=batch)
    assert {path.stem for path in folder.glob("*.xml")} == models
    both(actor, ExportedPlanner(folder), batch, 6)
    with pytest.raises(InputError, match="exists already"):
        actor.export(folder)


@pytest.mark.slow
def test_the_script_needs_openvino_and_numpy_alone(tmp_path: Path):
    """Run in a process that cannot import torch, tensordict or the library."""
    folder = tiny_actor(**QUICK).export(tmp_path / "exported", noise=True)
    script = shutil.copy(EXAMPLE, tmp_path)
    code = (
        "import sys, runpy\n"
        f"sys.modules.update(dict.fromkeys({ABSENT}))\n"
        f"sys.argv = [{script!r}, {str(folder)!r}, '--steps', '3']\n"
        f"runpy.run_path({script!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "step 2: action" in done.stdout and "ms a step, 1 environments" in done.stdout
