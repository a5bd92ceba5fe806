"""Faster ways of planning give the plain way's plans."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torchrl_td.inference.packed_weights import PackedWeights

from tests.planner.helpers import Build, act, assert_same_plans
from torchrl_td import InputError
from torchrl_td.inference import packed_weights as packing
from torchrl_td.inference import runners as acceleration
from torchrl_td.inference.runners import (
    PackedPlanner,
    TapePlanner,
    TensorWatch,
)
from torchrl_td.networks import RecurrentTrajectoryModel

pytestmark = pytest.mark.usefixtures("all_packed")
needs_onednn = pytest.mark.skipif(not PackedWeights.available(), reason="needs oneDNN")


@pytest.fixture
def all_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the small weights of these tests packed, too."""
    monkeypatch.setattr(packing, "_SMALLEST", 0)


@needs_onednn
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"warm_start": "previous", "refresh_distance": 1e9},
        {"candidates": 3},
        {"replan_every": 2},
        {"refiner": {"refine_steps": 4, "sampler": "ddim", "evaluations": 2}},
        {"refiner": {"guidance_scale": 0.0}},
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("mode", ["packed", "tape"])
def test_fast_plans_on_the_cpu_are_the_same(
    make_actor: Build, make_step, settings, batch: int, mode: str
):
    plain, fast = make_actor(**settings), make_actor(**settings).compile(mode)
    step = make_step(plain, (batch,))
    step["planner", "noise"] = torch.randn(plain.planner.noise_shape(batch))
    for _ in range(6):  # over the steps of an episode
        expected, out = act(plain, step), act(fast, step)
        assert_same_plans(out, expected)
        step["planner"] = expected["next", "planner"]
        step["observation"] = expected["plan", "refined"][:, 1]
    if mode == "tape":
        assert fast.receding_horizon.runner._tapes, "no tape was played"


@needs_onednn
@pytest.mark.parametrize("mode", ["packed", "tape"])
def test_fast_plans_follow_training(
    make_actor: Build, make_step, monkeypatch: pytest.MonkeyPatch, mode: str
):
    monkeypatch.setattr(acceleration, "_PATIENCE", 1)
    actor, step = make_actor().compile(mode), make_step(make_actor())
    before = [act(actor, step) for _ in range(3)][-1]
    for change in (1.3, 0.7):
        for parameter in actor.parameters():
            parameter.data.mul_(change)  # leaves no trace in the version counter
        expected = make_actor()
        expected.load_state_dict(actor.state_dict())
        for _ in range(3):
            assert_same_plans(act(actor, step), act(expected, step))
        assert not torch.allclose(act(actor, step)["action"], before["action"])


@needs_onednn
@pytest.mark.parametrize("mode", ["packed", "tape"])
@pytest.mark.parametrize(
    ("setting", "value"),
    [("guidance_scale", 6.0), ("temperature", 0.2), ("add_noise", False), ("sampler", "ddim")],
)
def test_fast_plans_follow_changed_settings(
    make_actor: Build, make_step, mode: str, setting: str, value
):
    plain, fast = make_actor(), make_actor().compile(mode)
    step = make_step(plain)
    step["planner", "noise"] = torch.randn(plain.planner.noise_shape(3))
    for _ in range(3):
        before = act(fast, step)
    for actor in (plain, fast):
        setattr(actor.planner.refiner, setting, value)
    expected = act(plain, step)
    assert not torch.allclose(expected["plan", "refined"], before["plan", "refined"], atol=1e-4)
    for _ in range(3):
        assert_same_plans(act(fast, step), expected)


@needs_onednn
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_tape_follows_tensors_put_in_others_place(make_actor: Build, make_step, name: str):
    actor, step = make_actor().compile("tape"), make_step(make_actor())
    for _ in range(3):
        before = act(actor, step)
    layer = actor.planner.inverse_dynamics.network[0]
    setattr(layer, name, torch.nn.Parameter(torch.randn_like(getattr(layer, name))))
    expected = make_actor()
    expected.load_state_dict(actor.state_dict())
    after = act(actor, step)
    assert_same_plans(after, act(expected, step))
    assert not torch.allclose(after["action"], before["action"])


@needs_onednn
def test_tapes_are_recorded_when_it_pays(make_actor: Build, monkeypatch: pytest.MonkeyPatch):
    """One for each method and shape met twice; after a change of the weights not at once."""
    planner = make_actor().planner
    runner = TapePlanner(planner)

    def plan(batch: int, times: int = 1, noisy: bool = True) -> int:
        """Plans, and how many tapes there are then."""
        for _ in range(times):
            history = torch.randn(batch, 7, 6), torch.rand(batch, 7, 1)
            mask = torch.rand(batch, 7) > 0.5
            mask[:, -1] = True
            noise = torch.randn(planner.noise_shape(batch)) if noisy else None
            expected = planner.plan(*history, mask, noise)
            for one, other in zip(runner.plan(*history, mask, noise), expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        return len(runner._tapes)

    assert plan(1) == 0
    assert plan(2) == 0
    assert plan(1) == plan(1) == 1
    assert plan(1, 2, noisy=False) == 2
    assert plan(acceleration.LARGEST_TAPE + 1, 3) == 2
    with torch.no_grad():
        planner.inverse_dynamics.network[0].weight.mul_(1.1)
    assert plan(1, acceleration._PATIENCE) == 0
    assert plan(1) == 1
    monkeypatch.setattr(acceleration, "_PATIENCE", 1)
    for batch in range(1, 12):
        plan(batch, 2)
    assert plan(13, 3) == acceleration._MAX_GRAPHS
    assert [key[1][0][0] for key in runner._tapes] == [5, 6, 7, 8, 9, 10, 11, 13]


@needs_onednn
@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("batch", [1, 4])
def test_recurrent_generators_plan_fast(make_actor: Build, make_step, cell: str, batch: int):
    """A batch of a GRU changes a tensor's shape in place, which no tape can hold."""
    network = RecurrentTrajectoryModel(6, cell, width=32, layers=1)
    plain, fast = make_actor(), make_actor()
    for actor in (plain, fast):
        actor.planner.generator.network = network
    fast.compile("tape")
    step = make_step(plain, (batch,))
    for _ in range(4):
        assert_same_plans(act(fast, step), act(plain, step))
    assert bool(fast.receding_horizon.runner._tapes) == (cell == "lstm" or batch == 1)


@needs_onednn
def test_without_a_tape_where_none_can_be(
    make_actor: Build, make_step, monkeypatch: pytest.MonkeyPatch
):
    """A network that asks for a tensor's values plans all the same, and says so once."""
    warnings = []
    monkeypatch.setattr(acceleration.torchrl_logger, "warning", warnings.append)
    plain, fast = make_actor(), make_actor().compile("tape")
    for actor in (plain, fast):
        network = actor.planner.inverse_dynamics.network
        network.register_forward_hook(lambda _, inputs, out: out * float(out.sum() > 0))
    step = make_step(plain)
    for _ in range(4):
        assert_same_plans(act(fast, step), act(plain, step))
    assert len(warnings) == 1 and "waits for a tensor's values" in warnings[0]


@needs_onednn
@pytest.mark.parametrize("mode", ["packed", "tape"])
def test_autocast_around_the_actor_changes_nothing(make_actor: Build, make_step, mode: str):
    """Packed weights cannot be multiplied in half precision, and a tape would keep to its own."""
    actor, step = make_actor().compile(mode), make_step(make_actor())
    expected = act(make_actor(), step)
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            assert_same_plans(act(actor, step), expected)
    assert_same_plans(act(actor, step), expected)


def test_tensors_are_watched():
    layer = torch.nn.BatchNorm1d(3)
    whole = torch.nn.Sequential(torch.nn.ReLU(), layer)
    watch = TensorWatch(whole)
    assert [watch.changed(), watch.changed()] == [True, False]
    for change in (
        lambda: setattr(layer, "bias", torch.nn.Parameter(layer.bias.detach())),
        lambda: setattr(layer.weight, "data", layer.weight.data.clone()),
        lambda: setattr(layer, "running_mean", layer.running_mean.clone()),
        lambda: setattr(whole, "0", torch.nn.Tanh()),
    ):
        change()
        assert [watch.changed(), watch.changed()] == [True, False]
    layer.weight.data.mul_(2)
    assert not watch.changed()


def test_acceleration_adds_nothing_to_the_state_dict(make_actor: Build):
    plain, fast = make_actor(), make_actor().compile()
    assert plain.state_dict().keys() == fast.state_dict().keys()
    assert [name for name, _ in plain.named_modules()] == [name for name, _ in fast.named_modules()]


@needs_onednn
def test_copies_compile_for_themselves(make_actor: Build, make_step):
    actor, step = make_actor().compile(), make_step(make_actor())
    for _ in range(3):
        expected = act(actor, step)
    for twin in (copy.deepcopy(actor), pickle.loads(pickle.dumps(actor))):
        runner = twin.receding_horizon.runner
        assert isinstance(runner, TapePlanner) and runner.planner is twin.planner
        assert_same_plans(act(twin, step), expected)
        for parameter in twin.parameters():
            parameter.data.zero_()
        assert not torch.allclose(act(twin, step)["action"], expected["action"])
        assert_same_plans(act(actor, step), expected)


@needs_onednn
def test_moved_to_another_device(make_actor: Build):
    """As collectors send a policy to their workers: without weights, which arrive later."""
    actor = make_actor().compile("packed")
    empty = copy.deepcopy(actor).to("meta")
    arrived = pickle.loads(pickle.dumps(empty))
    with pytest.raises(InputError, match="needs a CPU with oneDNN, the planner is on meta"):
        _ = arrived.receding_horizon.runner
    assert isinstance(actor.receding_horizon.runner, PackedPlanner)


def test_none_goes_back(make_actor: Build, make_step):
    actor, step = make_actor(), make_step(make_actor())
    expected = act(actor, step)
    assert not isinstance(actor.compile().compile("none").receding_horizon.runner, PackedPlanner)
    assert_same_plans(act(actor, step), expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mode": "fast"}, "unknown mode 'fast'; allowed are none, auto, packed, tape"),
        ({"mode": "cudagraph"}, "needs a CUDA device, the planner is on cpu"),
        ({"autocast": torch.bfloat16}, "autocast needs a CUDA device"),
        ({"autocast": torch.int8}, "autocast must be torch.bfloat16 or torch.float16"),
    ],
)
def test_what_cannot_be_is_refused(make_actor: Build, arguments, words: str):
    with pytest.raises(InputError, match=words):
        make_actor().compile(**arguments)


@pytest.mark.parametrize("predict", ["state", "change"])
def test_half_precision_stays_near_and_comes_back_single(
    make_actor: Build, make_step, monkeypatch: pytest.MonkeyPatch, predict: str
):
    """On the CPU's autocast, which a user is not offered, as a stand-in for the GPU's."""
    actor = make_actor(predict=predict)
    step = make_step(actor)
    expected = act(actor, step)
    autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda _, *rest, **kw: autocast("cpu", *rest, **kw))
    actor.receding_horizon.runner.autocast = torch.bfloat16
    out = act(actor, step)
    assert not torch.equal(out["action"], expected["action"])
    assert out["action"].dtype == out["plan", "draft"].dtype == torch.float32
    assert_same_plans(out, expected, tolerance=0.1)


def test_torch_compile_takes_the_whole_plan(
    make_actor: Build, make_step, monkeypatch: pytest.MonkeyPatch
):
    """Traced as one graph; the code is not generated here, for that takes minutes."""
    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, mode, **kw: compile_(f, backend="eager", fullgraph=True, **kw)
    )
    settings = {"refiner": {"refine_steps": 2}}
    plain, fast = make_actor(**settings), make_actor(**settings).compile("default")
    for batch in (1, 3):
        step = make_step(plain, (batch,))
        assert_same_plans(act(fast, step), act(plain, step))
    for parameter in plain.parameters():
        parameter.data.mul_(1.1)
    fast.load_state_dict(plain.state_dict())
    assert_same_plans(act(fast, step), act(plain, step))
