"""Plans by CUDA graphs: on the CPU by a stand-in that replays operations as a graph does."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDictBase

from tests.graph_stand_in import Tape
from tests.planner.helpers import Build, act, assert_same_plans
from torchrl_td import TDPlannerActor
from torchrl_td.inference import runners as acceleration
from torchrl_td.inference.runners import CudaGraphPlanner

SETTINGS = [
    {},
    {"warm_start": "previous", "refresh_every": 3, "refresh_distance": 1e9},
    {"candidates": 3},
    {"replan_every": 2},
    {"refiner": {"refine_steps": 0}},
    {"refiner": {"refine_steps": 4, "sampler": "ddim", "evaluations": 2}},
    {"refiner": {"guidance_scale": 0.0}},
]


def over_an_episode(plain: TDPlannerActor, fast: TDPlannerActor, step: TensorDictBase) -> None:
    """Sixteen steps, each from where the plain planner left it."""
    for _ in range(16):
        shape = plain.planner.noise_shape(len(step))
        step["planner", "noise"] = torch.randn(shape, device=step.device)
        step["observation"] = torch.randn_like(step["observation"])
        expected = act(plain, step)
        assert_same_plans(act(fast, step), expected, tolerance=1e-4)
        step["planner"] = expected["next", "planner"]


@pytest.mark.parametrize("settings", SETTINGS)
def test_replayed_plans_are_the_same(make_actor: Build, make_step, tapes: list[Tape], settings):
    """Nothing a plan needs is outside of static tensors, and nothing in it waits for the device."""
    plain, fast = make_actor(**settings), make_actor(**settings)
    fast.receding_horizon.run_with(CudaGraphPlanner)
    over_an_episode(plain, fast, make_step(plain))
    graphs = 2 if "warm_start" in settings else 1  # one for drafts, one for what follows a plan
    plans = 16 // settings.get("replan_every", 1)
    assert len(tapes) == graphs
    assert sum(tape.replays for tape in tapes) == plans - 3 * graphs  # three calls warm up


@pytest.mark.gpu
@pytest.mark.parametrize("settings", SETTINGS)
def test_cuda_graphs_plan_the_same(make_actor: Build, make_step, settings):
    plain = make_actor(**settings).to("cuda")
    fast = make_actor(**settings).to("cuda").compile("cudagraph")
    over_an_episode(plain, fast, make_step(plain).to("cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 3])
def test_no_plan_waits_for_the_gpu(make_actor: Build, make_step, batch: int):
    """From the actor's inputs to its outputs, once the graph is there."""
    actor = make_actor().to("cuda").compile("cudagraph")
    step = make_step(actor, (batch,)).to("cuda")
    for _ in range(4):
        act(actor, step)
    torch.cuda.set_sync_debug_mode("error")
    try:
        act(actor, step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_graphs_are_told_apart_and_limited(make_actor: Build, monkeypatch: pytest.MonkeyPatch):
    """Which graph serves which call; the graphs themselves only pass calls through."""
    captured = []

    class Graph:
        def __init__(self, function, device):
            assert device == planner.candidate_noise.device
            captured.append(self)
            self.function = function
            self.shapes = None

        def __call__(self, *inputs):
            assert not torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
            shapes = [tensor.shape for tensor in inputs]
            assert self.shapes in (None, shapes), "a graph met other shapes than it captured"
            self.shapes = shapes
            return self.function(*inputs)

    monkeypatch.setattr(acceleration, "GraphReplay", Graph)
    planner = make_actor().planner
    runner = CudaGraphPlanner(planner)

    def plan(batch: int, noisy: bool = True):
        history = torch.randn(batch, 7, 6), torch.rand(batch, 7, 1)
        mask = torch.ones(batch, 7, dtype=torch.bool)
        noise = torch.randn(planner.noise_shape(batch)) if noisy else None
        expected = planner.plan(*history, mask, noise)
        for one, other in zip(runner.plan(*history, mask, noise), expected, strict=True):
            torch.testing.assert_close(one, other)

    for batch in (1, 2, 1, 2):
        plan(batch)
    assert len(captured) == 2
    plan(1, noisy=False)
    assert len(captured) == 3
    for batch in range(1, 12):
        plan(batch)
    assert len(captured) == 12
    plan(4)  # the one not used for longest
    plan(12)
    plan(4)
    assert len(captured) == 13
    plan(5)  # made room for 12
    assert len(captured) == 14
    planner.refiner.guidance_scale = 3.0
    plan(5)
    assert len(captured) == 15
    planner.inverse_dynamics.network[0].weight.data = torch.randn(32, 12)  # moved in memory
    with torch.inference_mode():
        plan(5)
    assert len(captured) == 16


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["cudagraph", "reduce-overhead"])
def test_cuda_graphs_plan_the_same_at_changing_batch_sizes(make_actor: Build, make_step, mode: str):
    plain, fast = make_actor().to("cuda"), make_actor().to("cuda").compile(mode)
    for batch in (1, 4, 1, 4, 3, 1, 1):
        step = make_step(plain, (batch,)).to("cuda")
        step["planner", "noise"] = torch.randn(plain.planner.noise_shape(batch), device="cuda")
        assert_same_plans(act(fast, step), act(plain, step), tolerance=1e-4)
    for parameter in [*plain.parameters(), *fast.parameters()]:
        parameter.data.mul_(1.1)
    assert_same_plans(act(fast, step), act(plain, step), tolerance=1e-4)
    for parameter in [*plain.parameters(), *fast.parameters()]:
        parameter.data = parameter.data * 0.9  # elsewhere in memory
    for _ in range(4):
        with torch.inference_mode():
            assert_same_plans(act(fast, step), act(plain, step), tolerance=1e-4)
    assert_same_plans(act(fast, step), act(plain, step), tolerance=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_the_gpu(make_actor: Build, make_step, dtype: torch.dtype):
    plain, fast = make_actor().to("cuda"), make_actor().to("cuda")
    fast.compile(autocast=dtype)
    step = make_step(plain).to("cuda")
    for _ in range(4):
        assert_same_plans(act(fast, step), act(plain, step), tolerance=0.1)
