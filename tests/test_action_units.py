"""What is learnt and done does not depend on the units of the actions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict

from torchrl_td import train
from torchrl_td.checkpoint import find_checkpoint, load_model
from torchrl_td.data import Normalizer, load_episodes, normalizer
from torchrl_td.errors import InputError

SMALL, LARGE = 2.0**-12, 2.0**9  # powers of two, by which a float is multiplied exactly
FEW = (
    "training.steps=3",
    "training.batch_size=8",
    "dataset.validation_share=0.2",
    "progress=false",
    "device=cpu",
)
ALGORITHMS = {
    "trajectory_diffuser": ("preset=strided",),
    "bc": (),
    "rcbc_ensemble": (),
    "dt": ("algorithm.context=4", "algorithm.width=16"),
    "iql": (),
    "td3_bc": (),
    "decision_diffuser": ("preset=small", "refiner.channels=8", "refiner.denoising_steps=20"),
}


def episodes(unit: float) -> TensorDict:
    """Ten of 40 steps, whose actions' entries differ in spread, and whose last is far from 0."""
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(10, 41, 3, generator=generator).cumsum(1)
    action = torch.randn(10, 40, 2, generator=generator) * torch.tensor([1.0, 0.5])
    steps = TensorDict(
        observation=state[:, :-1].flatten(0, 1),
        action=unit * (action + torch.tensor([0.0, 100.0])).flatten(0, 1),
        batch_size=[400],
    )
    steps["next"] = TensorDict(
        observation=state[:, 1:].flatten(0, 1),
        reward=torch.rand(400, 1, generator=generator),
        truncated=(torch.arange(400) % 40 == 39).unsqueeze(-1),
        batch_size=[400],
    )
    return steps


def trained(name: str, unit: float, folder: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    words = [f"algorithm={name}", *ALGORITHMS[name], *FEW]
    actor = train(episodes(unit), settings=words, output_dir=folder).actor
    return actor, load_model(find_checkpoint(folder))[0].state_dict()


def acts(actor: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    given = TensorDict(
        observation=torch.randn(6, 3, generator=generator),
        target_return=torch.full((6, 1), 20.0),
        is_init=torch.ones(6, 1, dtype=torch.bool),
        batch_size=[6],
    )
    if hasattr(actor, "make_tensordict_primer"):
        ((key, spec),) = actor.make_tensordict_primer().primers.items()
        given[key] = spec.zero([6])
    torch.manual_seed(0)  # of the noise that some plans start from
    return actor(given)["action"]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_training_and_acting_do_not_see_them(name: str, tmp_path: Path) -> None:
    if name == "dt":
        pytest.importorskip("transformers")
    (small, weights), (large, same) = (
        trained(name, unit, tmp_path / str(unit)) for unit in (SMALL, LARGE)
    )
    learnt = [key for key in weights if not key.endswith(("action_low", "action_high"))]
    units = ("normalizer.action_loc", "normalizer.action_scale")
    for key in learnt:
        factor = LARGE / SMALL if key in units else 1
        assert torch.equal(weights[key] * factor, same[key]), key
    assert torch.equal(acts(small) * (LARGE / SMALL), acts(large))
    assert acts(small)[:, 1].mean() == pytest.approx(100 * SMALL, rel=0.1)


@given(st.floats(1e-6, 1e6), st.floats(-1e3, 1e3), st.integers(1, 4))
def test_actions_are_standard_or_as_they_were_and_come_back(
    spread: float, centre: float, width: int
) -> None:
    generator = torch.Generator().manual_seed(width)
    action = spread * (torch.randn(200, width, generator=generator) + centre)
    data = TensorDict(observation=torch.rand(200, 1), action=action, returns_to_go=torch.ones(200))
    fitted = Normalizer.fit(data)
    learnt = fitted.normalize_action(action)
    for entry in range(width):
        was, now = action[:, entry].double(), learnt[:, entry].double()
        if 0.02 <= was.std(correction=0) <= 10 and was.mean().abs() <= 10:
            assert torch.equal(was, now)
        else:
            assert now.std(correction=0) == pytest.approx(1, rel=1e-2)
            assert now.mean().abs() < 1e-2
    back = fitted.denormalize_action(learnt)
    assert torch.allclose(back, action, rtol=1e-5, atol=1e-5 * spread)


@pytest.mark.parametrize("noise", [1e-9, 1e-6, 1e-3])
def test_noise_on_an_unused_actuator_is_not_blown_up(noise: float) -> None:
    """It became half of a policy's loss, and TD3+BC's bounds a million."""
    data = load_episodes(episodes(1.0))
    data["action"] = torch.randn(400, 2).clamp(-1, 1) * torch.tensor([1.0, noise])
    fitted = Normalizer.fit(data, 1.0, (-torch.ones(2), torch.ones(2)))
    learnt = fitted.normalize_action(data["action"])
    assert torch.equal(learnt[:, 0], data["action"][:, 0])
    assert learnt[:, 1].std() <= 10 * noise
    assert fitted.normalize_action(torch.ones(2)).abs().max() <= 10.1


def test_a_run_of_before_is_not_trained_on_in_other_units(tmp_path: Path) -> None:
    words, folder = ["algorithm=bc", *FEW], tmp_path / "run"
    with pytest.MonkeyPatch.context() as before:
        before.setattr(normalizer, "_action_units", lambda *_: (None, None))
        train(episodes(LARGE), settings=[*words, "training.stop_after=2"], output_dir=folder)
    with pytest.raises(InputError, match="learnt its actions in other units: it was started by"):
        train(episodes(LARGE), settings=["resume=auto", *words], output_dir=folder)


def test_usual_actions_and_choices_leave_no_trace_in_a_checkpoint() -> None:
    usual = load_episodes(episodes(1.0))
    usual["action"] = torch.rand(400, 2)
    choices = usual.clone()
    choices["action"] = torch.eye(100, dtype=torch.bool)[torch.zeros(400, dtype=torch.int64)]
    for data in (usual, choices):
        assert set(Normalizer.fit(data).state_dict()) == {"loc", "scale", "returns_scale"}
