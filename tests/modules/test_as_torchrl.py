"""The modules as TorchRL's own: dispatch, selected keys, any batch shape, pipelines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from tests.objectives.cases import (
    A,
    H,
    O,
    PlainNoise,
    T,
    critic,
    generator,
    inverse_dynamics,
    refiner,
)
from torchrl_td.modules import (
    DiffusionRefiner,
    InverseDynamics,
    NoiseSchedule,
    TrajectoryGenerator,
    TrajectoryPlanner,
)
from torchrl_td.networks import TemporalUNet
from torchrl_td.objectives import DiffusionRefinerLoss


def drafting() -> TrajectoryGenerator:
    return TrajectoryGenerator(generator().network, horizon=H)


# Name of the module, how it is made, and the shapes of its entries after the batch's.
MODULES: dict[str, tuple[Callable[[], TensorDictModuleBase], dict[Any, tuple[int, ...]]]] = {
    "generator": (generator, {"observation": (T, O), "returns_to_go": (T, 1)}),
    "drafting": (drafting, {"observation": (H - 1, O), "returns_to_go": (H - 1, 1)}),
    "refiner": (refiner, {("plan", "draft"): (H, O), "returns_to_go": (1,)}),
    "inverse_dynamics": (inverse_dynamics, {"observation": (O,), ("next", "observation"): (O,)}),
    "critic": (critic, {"observation": (O,), "action": (A,)}),
}
each_module = pytest.mark.parametrize("name", MODULES)


@pytest.fixture(autouse=True)
def without_sampling_noise() -> Iterator[None]:
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        yield


def entries(name: str, *batch: int) -> dict[Any, Tensor]:
    return {key: torch.randn(*batch, *shape) for key, shape in MODULES[name][1].items()}


def keywords(given: dict[Any, Tensor]) -> dict[str, Tensor]:
    return {key if isinstance(key, str) else "_".join(key): v for key, v in given.items()}


@each_module
def test_any_batch_shape(name: str) -> None:
    module = MODULES[name][0]()
    given = entries(name, 2, 3)
    many = module(TensorDict(given, batch_size=[2, 3]))
    flat = module(TensorDict(given, batch_size=[2, 3]).reshape(6))
    single = module(TensorDict(given, batch_size=[2, 3])[1, 2])
    for key in module.out_keys:
        assert torch.allclose(many[key].flatten(0, 1), flat[key], atol=1e-5)
        assert torch.allclose(single[key], flat[key][5], atol=1e-5)


@each_module
def test_tensors_by_keyword_and_by_position(name: str) -> None:
    module, given = MODULES[name][0](), entries(name, 2)
    want = module(TensorDict(given, batch_size=[2]))
    for out in (module(**keywords(given)), module(*given.values())):
        values = out if isinstance(out, tuple) else (out,)
        for key, value in zip(module.out_keys, values, strict=True):
            assert torch.equal(value, want[key])


@each_module
def test_it_exports(name: str) -> None:
    module, given = MODULES[name][0]().eval(), entries(name, 2)
    program = torch.export.export(module, args=(), kwargs=keywords(given))
    want, got = module(**keywords(given)), program.module()(**keywords(given))
    for one, other in zip(
        *((x if isinstance(x, tuple) else (x,)) for x in (want, got)), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-5)


@each_module
def test_selected_keys_and_keys_that_are_not_written(name: str) -> None:
    module, given = MODULES[name][0](), entries(name, 2)
    *others, key = module.out_keys
    want = module(TensorDict(given, batch_size=[2]))[key]
    module.select_out_keys(key)
    out = module(TensorDict(given, batch_size=[2]))
    assert torch.equal(out[key], want) and not any(other in out for other in others)
    module.reset_out_keys()
    assert module.out_keys == [*others, key]
    module.out_keys = ["_"] * len(others) + [key]
    out = module(TensorDict(given, batch_size=[2]))
    assert torch.equal(out[key], want)
    assert set(out.keys(True, True)) == {*given, key}


@each_module
def test_an_entry_that_is_missing_is_named(name: str) -> None:
    module, given = MODULES[name][0](), entries(name, 2)
    for key in given:
        with pytest.raises(KeyError, match=key if isinstance(key, str) else key[-1]):
            module(TensorDict(given, batch_size=[2]).exclude(key))


def test_a_sequence_of_them_plans() -> None:
    """What the planner does in one call, from the history's mask to the action."""
    parts = drafting(), refiner(), inverse_dynamics()
    acting = InverseDynamics(parts[2].network, in_keys=[("plan", "refined")])
    sequence = TensorDictSequential(parts[0], parts[1], acting)
    assert set(sequence.in_keys) == {"observation", "returns_to_go", "mask"}
    given = entries("drafting", 4)
    mask = torch.ones(4, H - 1, dtype=torch.bool)
    mask[0, :5] = False
    td = sequence(TensorDict({**given, "mask": mask}, batch_size=[4]))
    planner = TrajectoryPlanner(*parts, horizon=H)
    draft, returns, plan, action = planner.plan(*given.values(), mask)
    assert torch.equal(td["plan", "draft"], draft)
    assert torch.equal(td["plan", "returns_to_go"], returns)
    assert torch.equal(td["plan", "refined"], plan)
    assert torch.equal(td["action"], action)
    other = sequence(TensorDict({**given, "mask": mask.unsqueeze(-1)}, batch_size=[4]))
    assert torch.equal(other["action"], action)


def test_a_history_too_long_for_the_network_is_refused() -> None:
    td = TensorDict(
        {key: torch.randn(2, T, v.shape[-1]) for key, v in entries("drafting", 2).items()}
    )
    with pytest.raises(ValueError, match=f"history of {T} states"):
        drafting()(td)


@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 1.2])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_the_noise_network_may_be_any(guidance_scale: float, sampler: str) -> None:
    """The U-Net's own way is the same computation, only earlier."""
    settings = {"guidance_scale": guidance_scale, "sampler": sampler, "refine_steps": 3}
    unet = TemporalUNet(O, 8, (1, 2), embedding_dim=8)
    own = DiffusionRefiner(unet, NoiseSchedule(), **settings)
    plain = DiffusionRefiner(PlainNoise(unet), NoiseSchedule(), **settings)
    draft, returns = torch.randn(4, H, O), torch.rand(4, 1)
    noise = torch.randn(4, own.noise_draws, H, O)
    want = own.refine(draft, returns, noise)
    assert torch.allclose(plain.refine(draft, returns, noise), want, atol=1e-5)
    assert not torch.allclose(want, draft, atol=1e-2)


def test_a_noise_network_of_the_users_own_trains_and_plans() -> None:
    module = DiffusionRefiner(PlainNoise(), NoiseSchedule())
    loss = DiffusionRefinerLoss(module, horizon=7)  # a U-Net could not halve it
    window = {"observation": torch.randn(4, 12, O), "returns_to_go": torch.rand(4, 12, 1)}
    loss(TensorDict(window, batch_size=[4, 12]))["loss_refiner"].backward()
    assert module.network.layer.weight.grad.abs().sum() > 0
    parts = generator(), module, inverse_dynamics()
    planner = TrajectoryPlanner(*parts, horizon=7, observation_dim=O)
    history = torch.randn(4, 6, O), torch.rand(4, 6, 1), torch.ones(4, 6, dtype=torch.bool)
    assert planner.plan(*history)[2].shape == (4, 7, O)
    with pytest.raises(ValueError, match="give observation_dim"):
        TrajectoryPlanner(*parts, horizon=7)
