"""Compiled modes of every device: what they refuse, what they keep to, torch.compile's own."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from tests.planner.helpers import Build, act, assert_same_plans
from torchrl_td import InputError
from torchrl_td.inference.fingerprint import PlannerWatch
from torchrl_td.inference.runners import PlannerRunner


def test_tensors_are_watched():
    layer = torch.nn.BatchNorm1d(3)
    several = torch.nn.ModuleList([torch.nn.Linear(3, 3)])
    whole = torch.nn.Sequential(torch.nn.ReLU(), layer, several)
    watch = PlannerWatch(whole)
    assert [watch.moved(), watch.moved()] == [True, False]
    for change in (
        lambda: setattr(layer, "bias", torch.nn.Parameter(layer.bias.detach())),
        lambda: setattr(layer.weight, "data", layer.weight.data.clone()),
        lambda: setattr(layer, "running_mean", layer.running_mean.clone()),
        lambda: setattr(whole, "0", torch.nn.Tanh()),
        lambda: several.append(torch.nn.Linear(3, 3)),
        lambda: several.pop(1),
        lambda: several.insert(0, torch.nn.Linear(3, 3)),
    ):
        change()
        assert [watch.moved(), watch.moved()] == [True, False]
    watch.changed()
    layer.weight.data.mul_(2)  # leaves no trace in the version counter
    assert not watch.moved()
    assert [watch.changed(), watch.changed()] == [True, False]
    with torch.no_grad():
        layer.bias[-1] += 1
    assert [watch.changed(), watch.changed()] == [True, False]


def test_acceleration_adds_nothing_to_the_state_dict(make_actor: Build):
    plain, fast = make_actor(), make_actor().compile()
    assert plain.state_dict().keys() == fast.state_dict().keys()
    assert [name for name, _ in plain.named_modules()] == [name for name, _ in fast.named_modules()]


def test_moved_to_another_device(make_actor: Build):
    """As collectors send a policy to their workers: without weights, which arrive later."""
    actor = make_actor().compile("default")
    empty = copy.deepcopy(actor).to("meta")
    arrived = pickle.loads(pickle.dumps(empty))
    assert arrived.compiled_mode == actor.compiled_mode == "default"
    actor.compile("auto")
    assert copy.deepcopy(actor).to("meta").compiled_mode == "none"


def test_none_goes_back(make_actor: Build, make_step):
    actor, step = make_actor(), make_step(make_actor())
    expected = act(actor, step)
    assert actor.compile("default").compiled_mode == "default"
    assert actor.compile("none").compiled_mode == "none"
    assert_same_plans(act(actor, step), expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mode": "fast"}, "unknown mode 'fast'; allowed are none, auto, openvino, cudagraph"),
        ({"mode": "cudagraph"}, "needs a CUDA device, the planner is on cpu"),
        (
            {"mode": "none", "autocast": torch.bfloat16},
            "autocast=torch.bfloat16 needs a CUDA",
        ),
        ({"autocast": torch.int8}, "autocast must be torch.bfloat16 or torch.float16"),
        ({"mode": "openvino", "autocast": torch.float16}, "autocast=torch.float16 needs a CUDA"),
        ({"mode": "openvino", "fullgraph": True}, "fullgraph go to torch.compile"),
        ({"backend": "eager", "autocast": torch.bfloat16}, "backend go to torch.compile"),
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
    actor.receding_horizon.run_with(lambda planner: PlannerRunner(planner, torch.bfloat16))
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
    settings = {"horizon": 4, "layers": 1, "refiner": {"refine_steps": 1}}
    plain, fast = make_actor(**settings), make_actor(**settings).compile("default")
    for batch in (1, 3):
        step = make_step(plain, (batch,))
        assert_same_plans(act(fast, step), act(plain, step))
    for parameter in plain.parameters():
        parameter.data.mul_(1.1)
    fast.load_state_dict(plain.state_dict())
    assert_same_plans(act(fast, step), act(plain, step))


def test_options_of_torch_compile_go_to_it(make_actor: Build, make_step):
    """The contract of nn.Module.compile: backend and fullgraph compile the whole forward."""
    settings = {"horizon": 4, "layers": 1, "refiner": {"refine_steps": 1}}
    plain, actor = make_actor(**settings), make_actor(**settings)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    assert actor.compile(backend=backend, dynamic=False) is actor
    step = make_step(plain, (2,))
    assert_same_plans(act(actor, step), act(plain, step))
    assert graphs
    graphs.clear()
    torch.compiler.reset()
    assert_same_plans(act(actor.compile("none"), step), act(plain, step))
    assert not graphs
