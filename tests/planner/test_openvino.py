"""Plans by OpenVINO: the planner's own, whatever changes; and the programs kept on disk."""

from __future__ import annotations

import copy
import ctypes
import gc
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import MLP

from tests.planner.helpers import Build, act, assert_same_plans
from torchrl_td import InputError, Normalizer, TDPlannerActor
from torchrl_td.data.cache import cache_root
from torchrl_td.inference import fingerprint, modes, openvino_planner
from torchrl_td.inference.program_cache import load_program, store_program
from torchrl_td.modules import (
    DiffusionRefiner,
    NoiseSchedule,
    PlanGenerator,
    PlanInverseDynamics,
    TrajectoryPlanner,
)
from torchrl_td.modules.plan_parts import Ensemble
from torchrl_td.networks import ModulatedMLP, PlanDenoiser

pytestmark = pytest.mark.skipif(not openvino_planner.openvino_installed(), reason="needs OpenVINO")
SMALL = {"horizon": 4, "layers": 1}
QUICK = {**SMALL, "refiner": {"refine_steps": 1, "guidance_scale": 1.0}}
DDIM = {"refine_steps": 2, "sampler": "ddim", "evaluations": 1}
FOLLOWING = {"warm_start": "previous", "refresh_distance": 1e9}


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("called where it should not be")


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is on disk already can be used."""
    monkeypatch.setattr(openvino_planner, "convert", refuse)


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr("torchrl.torchrl_logger.warning", said.append)
    return said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "batch"),
    [
        (QUICK, 1),
        ({**QUICK, **FOLLOWING}, 1),
        ({**SMALL, **FOLLOWING, "replan_every": 2, "refiner": DDIM}, 3),
        ({**SMALL, "candidates": 2}, 2),
        ({**SMALL, "refiner": {"refine_steps": 0}}, 2),
    ],
)
def test_plans_are_the_same(make_actor: Build, make_step, settings, batch: int):
    plain, fast = make_actor(**settings), make_actor(**settings).compile("openvino")
    step = make_step(plain, (batch,))
    noise = torch.randn(plain.planner.noise_shape(batch))
    for _ in range(4):  # over the steps of an episode
        if "candidates" not in settings:
            step["planner", "noise"] = noise
        expected = act(plain, step)
        assert_same_plans(act(fast, step), expected)
        step["planner"] = expected["next", "planner"]
        step["observation"] = expected["plan", "refined"][:, 1]
    if "candidates" not in settings:
        step["planner", "noise"] = noise
    fast.planner.plan = fast.planner.replan = refuse
    assert_same_plans(act(fast, step), act(plain, step))
    assert fast.compiled_mode == "openvino"


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("actions", [1, 2])
def test_ensembles_act_the_same(make_step, actions: int, batch: int):
    """Of one number, too, where OpenVINO once took the mean along another axis."""
    scale = torch.ones(4, 3)
    generator = Ensemble([MLP(3 + 1, 3 * 3, num_cells=[8]) for _ in range(3)])
    inverse = Ensemble([MLP(3 + 2 * 3 + 1, actions, num_cells=[8]) for _ in range(3)])
    planner = TrajectoryPlanner(
        PlanGenerator(generator, scale),
        DiffusionRefiner(PlanDenoiser(3, 4, (8,)), NoiseSchedule(), refine_steps=1),
        PlanInverseDynamics(inverse, scale),
        horizon=4,
    )
    actor = TDPlannerActor(planner, Normalizer(torch.zeros(3), torch.ones(3), 100.0))
    step = make_step(actor, (batch,))
    expected = act(actor, step)
    actor.compile("openvino")
    assert_same_plans(act(actor, step), expected)
    actor.planner.plan = refuse
    assert_same_plans(act(actor, step), expected)


@pytest.mark.parametrize("change", ["in place", "replaced", "setting"])
def test_changes_are_noticed(
    make_actor: Build, make_step, monkeypatch: pytest.MonkeyPatch, change: str
):
    """A plan is never one of weights or settings that were; a new program waits a while."""
    monkeypatch.setattr(openvino_planner, "PATIENCE", 2)
    plain, fast, step = make_actor(**QUICK), make_actor(**QUICK).compile("openvino"), None
    step = make_step(plain, (1,))
    before = act(fast, step)
    for actor in (plain, fast):
        layer = actor.planner.inverse_dynamics.network[0]
        if change == "in place":
            layer.weight.data.mul_(1.3)  # leaves no trace in the version counter
        elif change == "replaced":
            layer.bias = torch.nn.Parameter(torch.ones_like(layer.bias))
        else:
            actor.planner.refiner.guidance_scale = 6.0
    expected = act(plain, step)
    assert not torch.allclose(expected["plan", "refined"], before["plan", "refined"]) or (
        not torch.allclose(expected["action"], before["action"])
    )
    for _ in range(2):
        assert_same_plans(act(fast, step), expected)


def test_copies_plan_for_themselves(make_actor: Build, make_step):
    actor, step = make_actor(**QUICK).compile("openvino"), make_step(make_actor(**QUICK), (1,))
    expected = act(actor, step)
    for twin in (copy.deepcopy(actor), pickle.loads(pickle.dumps(actor))):
        assert_same_plans(act(twin, step), expected)
        assert twin.compiled_mode == "openvino"
        for parameter in twin.parameters():
            parameter.data.zero_()
        assert not torch.allclose(act(twin, step)["action"], expected["action"])
        assert_same_plans(act(actor, step), expected)


def test_threads_plan_the_same(make_actor: Build, make_step):
    """Several of OpenVINO's own, and several of the caller's at once."""
    plain, fast = make_actor(**QUICK), make_actor(**QUICK).compile("openvino")
    steps = [make_step(plain, (1,)) for _ in range(4)]
    for step in steps:
        step["observation"] = torch.randn_like(step["observation"])
    expected = [act(plain, step) for step in steps]
    found: dict[int, Any] = {}
    callers = [
        threading.Thread(target=lambda i=i: found.update({i: act(fast, steps[i])}))
        for i in range(4)
    ]
    # Each sets it for all, and would put back what another had set meanwhile.
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    for i, want in enumerate(expected):
        assert_same_plans(found[i], want)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert_same_plans(act(fast, steps[0]), expected[0])
    finally:
        torch.set_num_threads(threads)


def test_half_precision_stays_near_and_comes_back_single(make_actor: Build, make_step):
    plain, fast = make_actor(**QUICK), make_actor(**QUICK)
    fast.compile("openvino", autocast=torch.bfloat16)
    step = make_step(plain, (1,))
    out = act(fast, step)
    assert out["action"].dtype == torch.float32
    assert_same_plans(out, act(plain, step), tolerance=0.1)


def test_modulated_layers_in_half_precision(make_step):
    """OpenVINO's process crashed, of several environments on one thread."""
    scale = torch.ones(4, 3)
    planner = TrajectoryPlanner(
        PlanGenerator(ModulatedMLP(3 + 1, 3 * 3), scale),
        DiffusionRefiner(PlanDenoiser(3, 4, (8,)), NoiseSchedule(), refine_steps=0),
        PlanInverseDynamics(ModulatedMLP(3 + 2 * 3 + 1, 2), scale),
        horizon=4,
    )
    actor = TDPlannerActor(planner, Normalizer(torch.zeros(3), torch.ones(3), 100.0))
    step = make_step(actor, (2,))
    expected = act(actor, step)
    actor.compile("openvino", autocast=torch.bfloat16)
    assert_same_plans(act(actor, step), expected, tolerance=0.1)


def test_autocast_around_the_actor_changes_nothing(make_actor: Build, make_step):
    plain, fast = make_actor(**QUICK), make_actor(**QUICK).compile("openvino")
    step = make_step(plain, (1,))
    with torch.autocast("cpu", torch.bfloat16):
        out = act(fast, step)
    assert_same_plans(out, act(plain, step))


def test_a_few_plans_wait_for_no_compiler(
    make_actor: Build, make_step, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
):
    """By default; who asks for OpenVINO by its name gets it at the first plan."""
    monkeypatch.setattr(openvino_planner, "PATIENCE", 3)
    calls: list[str] = []

    def count(*_: Any) -> Any:
        calls.append("compiled")
        raise NotImplementedError("not now")

    monkeypatch.setattr(openvino_planner, "convert", count)
    actor, step = make_actor(**QUICK).compile(), make_step(make_actor(**QUICK), (5,))
    for _ in range(3):
        act(actor, step)
    assert actor.compiled_mode == "none" and not calls
    for _ in range(3):  # what cannot be compiled is planned for all the same, and said once
        assert_same_plans(act(actor, step), act(make_actor(**QUICK), step))
    assert len(calls) == len(warnings) == 1
    act(make_actor(**QUICK).compile("openvino"), step)
    assert len(calls) == 2


def test_random_draws_stay_those_of_torch(make_actor: Build, make_step, warnings: list[str]):
    """A choice drawn among candidates follows the seed, as it does without a program."""
    settings = {**SMALL, "candidates": 2}
    plain, fast = make_actor(**settings), make_actor(**settings).compile("openvino")
    step = make_step(plain, (2,))
    step["planner", "noise"] = torch.randn(plain.planner.noise_shape(2))
    for _ in range(2):
        with set_exploration_type(ExplorationType.RANDOM):
            torch.manual_seed(0)
            expected = plain(step.clone())
            torch.manual_seed(0)
            assert_same_plans(fast(step.clone()), expected)
    assert len(warnings) == 1 and "draws random numbers" in warnings[0]


def test_importing_openvino_starts_no_process():
    """Its telemetry would, and run this very script again where processes are spawned."""
    code = (
        "import multiprocessing, sys, time\n"
        "from torchrl_td.inference.openvino_model import import_openvino\n"
        "def refuse(self): print('started', file=sys.stderr)\n"
        "multiprocessing.Process.start = refuse\n"
        "import_openvino().Core()\n"
        "time.sleep(0.2)\n"
        "assert sys.modules.get('openvino_telemetry') is None\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "started" not in done.stderr, done.stderr


def test_missing_openvino_is_one_line(make_actor: Build, monkeypatch: pytest.MonkeyPatch):
    for module in (openvino_planner, modes):
        monkeypatch.setattr(module, "openvino_installed", lambda: False)
    with pytest.raises(InputError, match=r"needs OpenVINO: pip install .*\[openvino\]'$") as error:
        make_actor().compile("openvino")
    assert "\n" not in str(error.value)
    assert make_actor().compile().compiled_mode == "none"


# The programs on disk.


@pytest.fixture
def stored(make_actor: Build, make_step) -> tuple[TDPlannerActor, Any, list[Path]]:
    """A planner whose program is on disk, a step for it, and the files."""
    actor = make_actor(**QUICK).compile("openvino")
    step = make_step(actor, (1,))
    act(actor, step)
    return actor, step, sorted((cache_root() / "openvino").iterdir())


def test_a_second_start_compiles_nothing(stored, make_actor: Build, no_compiler: None):
    actor, step, _ = stored
    assert_same_plans(act(make_actor(**QUICK).compile("openvino"), step), act(actor, step), 0.0)


def test_a_damaged_program_is_not_read(stored, warnings: list[str]):
    *_, (file, *_) = stored
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], content[:-1] + bytes([content[-1] ^ 1])):
        file.write_bytes(damaged)
        assert load_program(file.name) is None
    file.write_bytes(content)
    assert load_program(file.name) is not None
    assert len(warnings) == 2 and all("\n" not in line for line in warnings)


def test_what_is_whole_but_no_program_is_made_anew(stored, make_actor: Build, warnings: list[str]):
    actor, step, files = stored
    for file in files:
        store_program(file.name, b"no program")
    assert_same_plans(act(make_actor(**QUICK).compile("openvino"), step), act(actor, step))
    assert warnings and all("\n" not in line for line in warnings)


def test_where_others_may_write_nothing_is_read(stored, warnings: list[str]):
    *_, files = stored
    folder = files[0].parent
    assert load_program(files[0].name) is not None
    folder.chmod(0o777)
    try:
        assert load_program(files[0].name) is None
        store_program("00", b"program")
    finally:
        folder.chmod(0o700)
    assert load_program("00") is None
    assert len(warnings) == 1 and "others may write to it" in warnings[0]


def test_two_writers_leave_a_whole_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
):
    monkeypatch.setenv("TORCHRL_TD_CACHE", str(tmp_path))
    programs = [bytes([i]) * 100_000 for i in range(2)]

    def write(program: bytes) -> None:
        for _ in range(20):
            store_program("aa", program)

    writers = [threading.Thread(target=write, args=(program,)) for program in programs]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert load_program("aa") in (None, *programs)
    assert load_program("aa") in programs and not warnings
    assert [path.name for path in (tmp_path / "openvino").iterdir()] == ["aa"]


def test_a_program_that_goes_while_others_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
):
    """Another writer gives its file its last name, or makes room, in between."""
    monkeypatch.setenv("TORCHRL_TD_CACHE", str(tmp_path))
    listed = Path.iterdir
    gone = tmp_path / "openvino" / ".another"
    monkeypatch.setattr(Path, "iterdir", lambda self: iter([gone, *listed(self)]))
    monkeypatch.setattr(Path, "is_file", lambda self: True)  # it still was one
    store_program("aa", b"program")
    assert load_program("aa") == b"program" and not warnings


def test_the_oldest_programs_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHRL_TD_CACHE", str(tmp_path))
    monkeypatch.setattr("torchrl_td.inference.program_cache.KEPT_BYTES", 2500)
    (tmp_path / "openvino").mkdir(mode=0o700)
    (tmp_path / "openvino/a folder").mkdir()  # which is no program
    os.utime(tmp_path / "openvino/a folder", (0, 0))
    for i, key in enumerate(("aa", "bb", "cc")):
        store_program(key, bytes(1000))
        path = tmp_path / "openvino" / key
        if path.exists():
            os.utime(path, (i, i))
    store_program("dd", bytes(1000))
    assert {path.name for path in (tmp_path / "openvino").iterdir()} == {"cc", "dd", "a folder"}


def test_what_a_program_depends_on_is_in_its_name(make_actor: Build):
    """Weights, settings and code; where these are not in plain sight nothing is kept."""

    def digest(change: Any = None, **settings: Any) -> str | None:
        planner = make_actor(**settings).planner
        if change is not None:
            change(planner)
        return fingerprint.digest(planner)

    class Twice(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    def append(planner: Any) -> None:
        planner.inverse_dynamics.network.append(Twice())

    found = [
        digest(),
        digest(lambda p: p.inverse_dynamics.network[0].bias.data[0].add_(1e-3)),
        digest(lambda p: setattr(p.refiner, "temperature", 0.5)),
        digest(lambda p: setattr(p.generator.network.blocks[0].attention, "heads", 2)),
        digest(append),
    ]
    assert found[0] == digest() and None not in found
    assert len(set(found)) == len(found)
    assert digest(lambda p: p.refiner.network.register_forward_hook(print)) is None
    assert digest(lambda p: setattr(p.refiner, "extra", lambda x: x)) is None


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads memory as Linux shows it")
def test_signals_are_heard_after_it(make_actor: Build, make_step) -> None:
    """OpenVINO replaces the stack that signal handlers run on; it must not take it away again."""

    class Stack(ctypes.Structure):
        _fields_ = (
            ("address", ctypes.c_void_p),
            ("flags", ctypes.c_int),
            ("size", ctypes.c_size_t),
        )

    def plan() -> None:
        actor = make_actor(**QUICK, **FOLLOWING).compile("openvino")
        act(actor, make_step(actor, (1,)))

    plan()
    gc.collect()
    stack = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    mapped = [
        line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()
    ]
    spans = [(int(first, 16), int(last, 16)) for first, last in mapped]
    assert stack.address is None or any(low <= stack.address < high for low, high in spans)
