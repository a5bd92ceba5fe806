"""The ways to plan that planner_speed.py times; its docstring says what each is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from machine_floor import Machine, count_work
from tensordict import TensorDict
from torch import Tensor
from torchrl.modules import MLP

from torchrl_td import TDPlannerActor
from torchrl_td.data import Normalizer
from torchrl_td.inference import make_runner
from torchrl_td.inference.openvino_model import openvino_installed
from torchrl_td.modules import (
    DiffusionRefiner,
    InverseDynamics,
    NoiseSchedule,
    TrajectoryGenerator,
    TrajectoryPlanner,
)
from torchrl_td.networks import TemporalUNet, TrajectoryTransformer

# Horizon, observation and action width, guidance scale.
SIZES = {
    "halfcheetah": (8, 17, 6, 1.1),
    "hopper": (16, 11, 3, 1.2),
    "walker2d": (32, 17, 6, 1.2),
}


@dataclass
class Variant:
    """One way to plan: what to call, and how often it calls which network."""

    call: Callable[[], object]
    generator_passes: int = 0
    refiner_passes: int = 0
    refiner_needed: int = 0  # of these, those that a batch for guidance would leave
    warm_up: int = 0  # calls that set up much, before it is as fast as it gets


class Parts:
    """The networks of one size and the inputs of one batch."""

    def __init__(self, size: str, batch: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.horizon, self.width, actions, self.guidance = SIZES[size]
        transformer = TrajectoryTransformer(self.width, 2 * self.horizon - 2).to(device)
        self.generator = TrajectoryGenerator(transformer).to(device)
        self.unet = TemporalUNet(self.width).to(device)
        self.inverse_dynamics = InverseDynamics(
            MLP(2 * self.width, actions, num_cells=(256, 256))
        ).to(device)
        self.batch, self.device = batch, device
        history = self.horizon - 1
        self.history = (
            torch.randn(batch, history, self.width, device=device),
            torch.rand(batch, history, 1, device=device),
            torch.ones(batch, history, dtype=torch.bool, device=device),
        )
        self.last_plan = torch.randn(batch, self.horizon, self.width, device=device)
        self.last_returns = torch.rand(batch, self.horizon, 1, device=device)

    def planner(self, drafts: bool = True, **settings: Any) -> TrajectoryPlanner:
        """A planner of these networks."""
        if drafts:
            schedule = NoiseSchedule()
        else:  # a sampler from pure noise needs a schedule that ends there
            schedule = NoiseSchedule(settings["refine_steps"], "cosine")
            settings["init"] = "noise"
        refiner = DiffusionRefiner(
            self.unet, schedule, guidance_scale=self.guidance, **{"refine_steps": 5, **settings}
        )
        return TrajectoryPlanner(
            self.generator if drafts else None,
            refiner,
            self.inverse_dynamics,
            horizon=self.horizon,
        ).to(self.device)

    def noise(self, planner: TrajectoryPlanner) -> Tensor:
        return torch.randn(planner.noise_shape(self.batch), device=self.device)

    def cold(self, mode: str, autocast: torch.dtype | None = None, **settings: Any) -> Variant:
        """A plan from the history."""
        planner = self.planner(**settings)
        runner, noise = make_runner(planner, mode, autocast), self.noise(planner)
        drafted = 0 if planner.generator is None else self.horizon - 1
        passes = len(planner.refiner.steps)
        return Variant(
            lambda: runner.plan(*self.history, noise), drafted, passes, passes, runner.warm_up
        )

    def warm(self, mode: str, autocast: torch.dtype | None = None, **settings: Any) -> Variant:
        """A plan from the last plan."""
        planner = self.planner(**settings)
        runner, noise = make_runner(planner, mode, autocast), self.noise(planner)
        present, returns = self.history[0][:, -1], self.history[1][:, -1]
        return Variant(
            lambda: runner.replan(self.last_plan, self.last_returns, present, returns, noise),
            1,
            len(planner.refiner.steps),
            len(planner.refiner.steps),
            runner.warm_up,
        )

    def naive(self) -> Variant:
        """A straightforward port of Algorithm 1: nothing cached, nothing batched."""
        planner = self.planner()
        noise, steps, schedule = self.noise(planner)[:, 0], 5, planner.refiner.schedule

        def call() -> Tensor:
            draft, _ = self.generator.generate_uncached(*self.history, self.horizon - 1)
            returns = self.history[1][:, -1]
            x = schedule.add_noise(draft, noise[:, 0], steps)
            x = torch.cat([draft[:, :1], x[:, 1:]], 1)
            for i, step in enumerate(range(steps, 0, -1)):
                k = torch.full((self.batch,), step, device=self.device)
                dropped = torch.zeros(self.batch, dtype=torch.bool, device=self.device)
                unconditional = self.unet(x, k, returns, dropped)
                conditional = self.unet(x, k, returns)
                predicted = unconditional + self.guidance * (conditional - unconditional)
                draw = noise[:, i + 1] if step > 1 else None
                x = schedule.ddpm_step(x, predicted, step, draw)
                x = torch.cat([draft[:, :1], x[:, 1:]], 1)
            return self.inverse_dynamics.act(x[:, 0], x[:, 1])

        return Variant(call, self.horizon - 1, 2 * steps, steps)


def variants(parts: Parts, torch_compile: bool) -> dict[str, Variant]:
    """All ways to plan, by name."""
    fast = "cudagraph"
    if parts.device.type == "cpu":
        fast = "openvino" if openvino_installed() else "none"
    ddim = {"sampler": "ddim", "evaluations": 2}
    found = {"naive": parts.naive(), "plain": parts.cold("none")}
    if fast != "none":
        found[fast] = parts.cold(fast)
    found["ddim2"] = parts.cold(fast, **ddim)
    found["warm"] = parts.warm(fast)
    found["warm_ddim2"] = parts.warm(fast, **ddim)
    if fast != "none":
        found["bf16"] = parts.cold(fast, torch.bfloat16)
        found["bf16_warm_ddim2"] = parts.warm(fast, torch.bfloat16, **ddim)
    if torch_compile:
        mode = "max-autotune" if fast == "cudagraph" else "default"
        found["compiled"] = parts.cold(mode)
        found["compiled_warm_ddim2"] = parts.warm(mode, **ddim)
    # A program of a hundred evaluations would take minutes to compile.
    plain = "none" if fast == "openvino" else fast
    found["decision_diffuser"] = parts.cold(plain, drafts=False, refine_steps=100)
    found["diffuser"] = parts.cold(plain, drafts=False, refine_steps=20)
    return found


def floor(parts: Parts, variant: Variant, machine: Machine) -> float:
    """Least seconds for what the variant computes, with a cache and with batched guidance."""
    seconds = 0.0
    network = parts.generator.network
    if variant.generator_passes:
        start = count_work(network, lambda: network.start(*parts.history, parts.horizon))
        state, returns, cache = network.start(*parts.history, parts.horizon)
        step = count_work(network, lambda: network.step(state, returns, cache))
        seconds += machine.seconds(start) + (variant.generator_passes - 1) * machine.seconds(step)
    x = parts.last_plan.repeat(2, 1, 1)
    embedding = parts.unet.embed_condition(torch.rand(len(x), 1, device=parts.device))
    projected = parts.unet.project(embedding, embedding)
    evaluation = count_work(parts.unet, lambda: parts.unet.run(x, projected))
    return seconds + variant.refiner_needed * machine.seconds(evaluation)


def actor_overhead(device: torch.device, machine: Machine) -> dict[str, Variant]:
    """A tiny planner's plan with and without the actor around it."""
    horizon, width = 4, 11
    planner = TrajectoryPlanner(
        TrajectoryGenerator(TrajectoryTransformer(width, 2 * horizon - 2, width=8, layers=1)),
        DiffusionRefiner(TemporalUNet(width, 8, (1,)), NoiseSchedule(), refine_steps=1),
        InverseDynamics(MLP(2 * width, 3, num_cells=(8,))),
        horizon=horizon,
    )
    actor = TDPlannerActor(planner, Normalizer(torch.zeros(width), torch.ones(width))).to(device)
    step = TensorDict(
        observation=torch.randn(1, width),
        target_return=torch.ones(1, 1),
        is_init=torch.zeros(1, 1, dtype=torch.bool),
        planner=actor.planner_spec.zero([1]),
        batch_size=[1],
    ).to(device)
    state = {key: step["planner", key] for key in ("observation", "returns_to_go")}
    mask = torch.ones(1, horizon - 1, dtype=torch.bool, device=device)
    noise = torch.randn(planner.noise_shape(1), device=device)

    def plan() -> None:
        planner.plan(state["observation"], state["returns_to_go"], mask, noise)

    return {"actor": Variant(lambda: actor(step)), "inside": Variant(plan)}
