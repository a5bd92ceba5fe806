"""The sum of the losses, of a whole batch and of one that several processes share."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.cases import H, make, seeded, window
from torchrl_td.training.distributed import World
from torchrl_td.training.joint_loss import JointLoss

LOSSES = ("generator", "refiner", "inverse_dynamics", "critic")  # of one planner


def test_the_parts_are_added_up() -> None:
    joint = JointLoss({name: make(name)[1] for name in LOSSES})
    metrics = seeded(joint, window().to("cpu"))
    parts = [metrics[f"loss_{name}"] for name in LOSSES]
    assert metrics["total"].item() == pytest.approx(sum(parts).item(), rel=1e-6)
    assert metrics["total"].requires_grad and not any(part.requires_grad for part in parts)


def test_the_mean_over_shares_is_the_whole_batchs() -> None:
    """Although rows have more or fewer real entries, which a plain mean would not weigh."""
    losses = {name: make(name)[1] for name in LOSSES}
    joint, batch, size = JointLoss(losses), window().to("cpu"), 3
    whole = seeded(joint, batch)
    shares = []
    for rank in range(size):
        world = World(rank, size)
        losses["refiner"].shard = (rank, size)
        mine = world.share(batch)
        weights = dict.fromkeys(LOSSES, world.weight(batch["mask"], mine["mask"]))
        plan = slice(-H + 1, None)  # position 0 carries no loss
        weights["refiner"] = world.weight(batch["mask"][:, plan], mine["mask"][:, plan])
        torch.manual_seed(1)
        shares.append(joint(mine, weights))
    for name, value in whole.items():
        mean = torch.stack([share[name] for share in shares]).mean()
        assert mean.item() == pytest.approx(value.item(), rel=1e-5), name
