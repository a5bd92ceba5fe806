"""An exported planner, run where there is no TorchRL and not this library, or no torch either."""

from __future__ import annotations

import ctypes
import gc
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from examples.td_deploy import ExportedPlanner, difference_from_actor, main
from tests.planner.helpers import act
from tests.tiny import tiny_actor
from torchrl_td import InputError, ReturnsLimit, TDPlannerActor
from torchrl_td.actors import exporting
from torchrl_td.inference.openvino_model import import_openvino, openvino_installed

if openvino_installed():
    import_openvino()  # before the example does, without its telemetry
needs_openvino = pytest.mark.skipif(not openvino_installed(), reason="needs OpenVINO")
ABSENT = ("torchrl", "tensordict", "torchrl_td", "openvino_telemetry")
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "td_deploy.py"
QUICK = {
    "horizon": 4,
    "layers": 1,
    "refiner": {"refine_steps": 1, "guidance_scale": 1.0},
}
LIMITED = {"returns_floor_share": 0.8, "returns_limit": ReturnsLimit(torch.nn.Linear(6, 1))}
WARM = {"warm_start": "previous", "replan_every": 2, "refresh_distance": 1.2}


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
    ("form", "settings", "batch", "models"),
    [
        pytest.param("openvino", LIMITED, 1, {"plan"}, marks=needs_openvino),
        pytest.param("openvino", WARM, 3, {"plan", "replan", "follow"}, marks=needs_openvino),
        ("torch", WARM, 3, {"plan", "replan", "follow"}),
    ],
)
def test_an_exported_planner_acts_as_the_actor(tmp_path: Path, form, settings, batch: int, models):
    actor = tiny_actor(**QUICK, **settings)
    folder = actor.export(tmp_path / "exported", batch_size=batch, format=form)
    assert {path.stem for path in folder.glob("*.[xp][mt][l2]")} == models
    exported = ExportedPlanner(folder)
    assert difference_from_actor(exported) < 1e-4
    both(actor, exported, batch, 6)
    with pytest.raises(InputError, match="exists already"):
        actor.export(folder)


@pytest.mark.stranger("machines")
@pytest.mark.parametrize("form", [pytest.param("openvino", marks=needs_openvino), "torch"])
def test_an_export_is_whole_or_not_at_all(small_disk: Path, form: str) -> None:
    """PyTorch's own writing ended the process, and what was left refused the next try."""
    actor, folder = tiny_actor(**QUICK), small_disk / "exported"
    room = small_disk / "full"
    with pytest.raises(OSError), room.open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
    with room.open("r+b") as file:
        file.truncate(room.stat().st_size - 40_000)
    with pytest.raises(InputError, match=f"^cannot write to {folder}: .*; make room") as caught:
        actor.export(folder, format=form)
    assert "\n" not in str(caught.value) and not list(folder.iterdir())
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(InputError, match=f"^cannot write to {folder}: it is not writable"):
        actor.export(folder, format=form)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)


def test_a_failed_export_removes_its_own_files_alone(tmp_path: Path, monkeypatch) -> None:
    def write(step: Any, inputs: Any, path: Path, form: str) -> None:
        path.with_suffix(".pt2").touch()
        (path.parent / "mine").touch()
        (path.parent / "notes").mkdir()
        raise InputError("the cause")

    monkeypatch.setattr(exporting, "_write", write)
    with pytest.raises(InputError, match=r"^the cause$"):
        tiny_actor(**QUICK).export(tmp_path / "exported", format="torch")
    assert sorted(path.name for path in (tmp_path / "exported").iterdir()) == ["mine", "notes"]


def test_a_planner_of_another_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"needs single precision: actor\.float\(\)"):
        tiny_actor(**QUICK).double().export(tmp_path / "exported")


def deployed(folder: Path, absent: tuple[str, ...], *words: str) -> subprocess.CompletedProcess:
    """The script in a process of its own, in which some packages cannot be imported."""
    script = shutil.copy(EXAMPLE, folder.parent)
    code = (
        "import sys, runpy\n"
        f"sys.modules.update(dict.fromkeys({absent}))\n"
        f"sys.argv = {[script, str(folder), *words]}\n"
        f"runpy.run_path({script!r}, run_name='__main__')\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "absent"),
    [
        pytest.param("openvino", (*ABSENT, "torch"), marks=needs_openvino),
        ("torch", (*ABSENT, "openvino")),
    ],
)
def test_the_script_needs_no_torchrl(tmp_path: Path, form, absent: tuple[str, ...]):
    folder = tiny_actor(**QUICK).export(tmp_path / "exported", noise=True, format=form)
    done = deployed(folder, absent, "--steps", "10", "--rate", "50")
    assert done.returncode == 0, done.stderr
    assert "10 steps at 50 Hz, 1 environments" in done.stdout
    assert re.search(r"median \d+\.\d+ ms, 95 % \d+\.\d+ ms, 99 % \d+\.\d+ ms", done.stdout)


class SignalStack(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@needs_openvino
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_signals_find_a_stack_when_planners_have_come_and_gone(tmp_path: Path) -> None:
    """Each had a core of its own, and a Ctrl-C ended Python with a segmentation fault."""
    folder = tiny_actor(**QUICK).export(tmp_path / "exported", format="openvino")
    planners = [ExportedPlanner(folder) for _ in range(2)]
    planners.pop(0)
    gc.collect()
    planners.pop()
    gc.collect()
    stack = SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    spans = [
        line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()
    ]
    mapped = any(int(a, 16) <= (stack.start or 0) < int(b, 16) for a, b in spans)
    assert mapped or stack.flags & 2  # SS_DISABLE: there is none


def test_a_reading_that_is_none_is_refused_and_leaves_no_trace(tmp_path: Path, monkeypatch):
    """A NaN would stay in the history until the next reset."""
    actor = tiny_actor(**QUICK)
    exported = ExportedPlanner(str(actor.export(tmp_path / "exported", format="torch")))
    observation, target, begins = np.zeros((1, 6)), np.full((1, 1), 90.0), np.ones((1, 1), int)
    for wrong, says in (
        ((np.full((1, 6), np.nan), target, begins), "observation holds NaN or Inf"),
        ((np.zeros((1, 5)), target, begins), r"observation has shape \[1, 5\], .* reads \[1, 6\]"),
        ((observation, 90.0, begins), r"target_return has shape \[\], .* reads \[1, 1\]"),
    ):
        with pytest.raises(ValueError, match=says):
            exported.act(*wrong)
    both(actor, exported, 1, 2)
    monkeypatch.setattr(
        sys, "argv", ["td_deploy.py", str(tmp_path / "exported"), "--precision", "bf16"]
    )
    with pytest.raises(SystemExit, match="error: bf16 is for planners exported with"):
        main()


@pytest.mark.parametrize("form", [pytest.param("openvino", marks=needs_openvino), "torch"])
def test_a_reading_that_overflows_is_refused_and_leaves_no_trace(tmp_path: Path, form):
    exported = ExportedPlanner(tiny_actor(**QUICK).export(tmp_path / "exported", format=form))
    target, begins = np.full((1, 1), 90.0), np.ones((1, 1), bool)
    exported.act(np.zeros((1, 6)), target, begins)
    before = {name: array.copy() for name, array in exported.state.items()}
    with pytest.raises(ValueError, match=r"so large that .* NaN or Inf; act on the last plan"):
        exported.act(np.full((1, 6), 3e38), target, ~begins)
    for name, array in before.items():
        np.testing.assert_array_equal(exported.state[name], array)
    assert np.isfinite(exported.act(np.zeros((1, 6)), target, ~begins)["action"]).all()


def test_actions_far_from_1_are_compared_by_their_size(tmp_path: Path):
    actor = tiny_actor(**QUICK)
    actor.normalizer.action_loc = torch.full((2,), 5e4)
    actor.normalizer.action_scale = torch.full((2,), 1e5)
    exported = ExportedPlanner(actor.export(tmp_path / "exported", format="torch"))
    assert np.abs(exported.about["checks"][0]["action"]).max() > 1e3
    assert difference_from_actor(exported) < 1e-5
    exported.about["checks"][-1]["action"][0][0] += 1e4
    assert difference_from_actor(exported) > 1e-3


def test_each_entry_of_an_action_is_compared_by_its_own_size(tmp_path: Path):
    actor = tiny_actor(**QUICK)
    actor.normalizer.action_loc = torch.zeros(2)
    actor.normalizer.action_scale = torch.tensor([1e3, 1e-2])
    exported = ExportedPlanner(actor.export(tmp_path / "exported", format="torch"))
    assert difference_from_actor(exported) < 1e-4
    exported.about["checks"][-1]["action"][0][1] *= 1.5
    assert difference_from_actor(exported) > 1e-2


def test_a_planner_that_acts_otherwise_is_refused(tmp_path: Path, monkeypatch):
    folder = tiny_actor(**QUICK).export(tmp_path / "exported", format="torch")
    about = json.loads((folder / "planner.json").read_text(encoding="utf-8"))
    about["checks"][-1]["action"][0][0] += 0.01
    (folder / "planner.json").write_text(json.dumps(about), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["td_deploy.py", str(folder), "--steps", "1"])
    with pytest.raises(SystemExit, match="error: it does not act as the actor did"):
        main()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "nowhere holds no planner.json"),
        ([".", "--rate", "0"], "--rate is from 0.001 to 1e6"),
        ([".", "--steps", "0"], "--steps is from 1 to 10000000"),
        ([".", "--steps", "1000000000000"], "--steps is from 1 to 10000000"),
        ([".", "--cache", "planner.json"], "--cache: cannot write to planner.json: File exists"),
        ([".", "--cache", "planner.json/x"], "cannot write to planner.json/x: Not a directory"),
        ([".", "--threads", "0"], "--threads from 1 to 512"),
        ([".", "--threads", "100000"], "--threads from 1 to 512"),
        ([".", "--target", "nan"], "--target is to be a number below 1e30"),
    ],
)
def test_wrong_words_are_refused_in_a_line(words, said: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planner.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["td_deploy.py", *words])
    with pytest.raises(SystemExit):
        main()
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_that_is_not_whole_is_one_line(tmp_path: Path):
    folder = tiny_actor(**QUICK).export(tmp_path / "exported", format="torch")
    whole = (folder / "plan.pt2").read_bytes()
    (folder / "plan.pt2").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit, match=r"cannot read .*exported \(.*\); copy it again"):
        ExportedPlanner(folder)
    (folder / "plan.pt2").unlink()
    with pytest.raises(SystemExit, match=r"lacks plan\.pt2; export the planner anew"):
        ExportedPlanner(folder)
    for text, says in (
        ("{", "JSONDecodeError"),
        ('{"format": "torch", "models": [], "checks": []}', "ValueError.'no checks'"),
    ):
        (folder / "planner.json").write_text(text, encoding="utf-8")
        with pytest.raises(SystemExit, match=rf"cannot read .*planner.json \({says}"):
            ExportedPlanner(folder)


@needs_openvino
def test_openvino_s_reason_is_told(tmp_path: Path):
    """It says first from which of its files the error comes."""
    folder = tiny_actor(**QUICK).export(tmp_path / "exported", format="openvino")
    text = (folder / "plan.xml").read_text(encoding="utf-8")
    (folder / "plan.xml").write_text(text[: text.index("<layers") + 4], encoding="utf-8")
    with pytest.raises(SystemExit, match=r"exported \(Error parsing .*\); copy it again"):
        ExportedPlanner(folder)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write to .*file/x: Not a directory"):
        tiny_actor(**QUICK).export(tmp_path / "file" / "x", format="torch")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=f"cannot write to {tmp_path}/file/x"):
        tiny_actor(**QUICK).export("~/x", format="torch")


def test_an_unknown_format_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="allowed are auto, openvino, torch"):
        tiny_actor().export(tmp_path / "exported", format="onnx")  # type: ignore[arg-type]
