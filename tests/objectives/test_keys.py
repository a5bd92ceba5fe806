"""Renamed and nested keys, and tensors given as keywords."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.modules import MLP

from tests.objectives.cases import A, B, O, T, each_loss, make, seeded, window
from torchrl_td.modules import InverseDynamics, TrajectoryGenerator
from torchrl_td.networks import TrajectoryTransformer
from torchrl_td.objectives import InverseDynamicsLoss, TrajectoryGeneratorLoss

RENAMED = {
    "observation": ("agent", "state"),
    "returns_to_go": ("agent", "deep", "rtg"),
    "action": "act",
    "mask": ("info", "real"),
    "next_observation": ("later", "state"),
    "next_returns_to_go": "later_rtg",
    "draft": "plan",
    "condition": ("plan_of", "score"),
    "reward": ("plan_of", "reward"),
    "end": "plan_end",
    "discount": ("plan_of", "factor"),
}
STANDARD = {
    "observation": "observation",
    "returns_to_go": "returns_to_go",
    "action": "action",
    "mask": "mask",
    "next_observation": ("next", "observation"),
    "next_returns_to_go": ("next", "returns_to_go"),
    "draft": ("plan", "draft"),
    "condition": "condition",
    "reward": ("plan", "reward"),
    "end": ("plan", "end"),
    "discount": ("plan", "discount"),
}


@each_loss
def test_renamed_and_nested_keys(name: str) -> None:
    key, loss, _ = make(name)
    td = window(name)
    want = seeded(loss, td)[key]
    accepted = set(loss.default_keys.__dataclass_fields__) - {
        "next_known",
        "outcome",
        "members",
        "scored",
    }
    loss.set_keys(**{k: v for k, v in RENAMED.items() if k in accepted})
    assert set(loss.in_keys) == {RENAMED[k] for k in accepted - {"mask"}}
    moved = TensorDict({RENAMED[k]: td[STANDARD[k]] for k in accepted}, batch_size=[B, T])
    assert torch.equal(seeded(loss, moved)[key], want)


def test_keys_follow_the_modules_own() -> None:
    """As TorchRL's losses read what their networks read."""
    network = MLP(2 * O, A, num_cells=(8,))
    keys = (("agent", "state"), ("next", "agent", "state"))
    loss = InverseDynamicsLoss(InverseDynamics(network, in_keys=keys, out_keys=["move"]))
    assert loss.in_keys == [*keys, "move"]
    transformer = TrajectoryTransformer(O, T, width=16, layers=1, heads=2)
    module = TrajectoryGenerator(transformer, in_keys=[("agent", "state"), "asked"])
    later = [("next", "agent", "state"), ("next", "asked")]
    assert TrajectoryGeneratorLoss(module).in_keys == [("agent", "state"), "asked", *later]


@each_loss
def test_a_key_it_does_not_know(name: str) -> None:
    _, loss, _ = make(name)
    with pytest.raises(ValueError, match="not an accepted"):
        loss.set_keys(colour="colour")


@each_loss
def test_a_renamed_key_goes_back_to_its_default(name: str) -> None:
    _, loss, _ = make(name)
    before = list(loss.in_keys)
    renamed = next(iter(loss.default_keys.__dataclass_fields__))
    loss.set_keys(**{renamed: "state"})
    assert "state" in loss.in_keys
    loss.set_keys(**{renamed: None})
    assert loss.in_keys == before


@each_loss
def test_keyword_tensors(name: str) -> None:
    key, loss, _ = make(name)
    td = window(name)
    want = seeded(loss, td)
    accepted = set(loss.default_keys.__dataclass_fields__) - {
        "next_known",
        "outcome",
        "members",
        "scored",
    }
    torch.manual_seed(1)
    keys = [STANDARD[k] for k in accepted]
    got = loss(**{k if isinstance(k, str) else "_".join(k): td[k] for k in keys})
    got = dict(zip(loss.out_keys, got if isinstance(got, tuple) else (got,), strict=True))
    assert set(got) == set(want.keys())
    assert torch.equal(got[key], want[key])


@pytest.mark.parametrize("name", ["generator", "inverse_dynamics"])
@pytest.mark.parametrize("key", [("next", "known"), "successor"])
def test_an_unknown_next_state_teaches_nothing(name: str, key: str | tuple[str, ...]) -> None:
    """Whatever stands there changes neither the loss nor a gradient; the other steps' count."""
    out, loss, _ = make(name)
    if isinstance(key, str):
        loss.set_keys(next_known=key)
    td = window(name)
    td["mask"] = torch.ones(B, T, dtype=torch.bool)
    plain = seeded(loss, td)[out]
    known = torch.ones(B, T, 1)
    td[key] = known
    assert torch.equal(seeded(loss, td)[out], plain)
    known[0, 3] = 0
    td[key] = known
    hidden = seeded(loss, td)[out]
    td["next", "observation"][0, 3] += 100.0
    assert torch.equal(seeded(loss, td)[out], hidden) and not torch.equal(hidden, plain)
    td["next", "observation"][0, 3] = float("nan")
    loss.zero_grad()
    again = seeded(loss, td)[out]
    again.backward()
    assert torch.equal(again, hidden)
    assert all(p.grad.isfinite().all() for p in loss.parameters() if p.grad is not None)
    td["next", "observation"][0, 4] += 1.0
    assert not torch.equal(seeded(loss, td)[out], hidden)
