"""How a Trajectory Diffuser learns most from what turned out better than is usual there."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import TensorDictReplayBuffer

from torchrl_td.checkpoint.build import make_plan_value
from torchrl_td.modules import PlanValue
from torchrl_td.training.value_guided import ValuedTraining, outcome_parts

_POOL = 2  # plans that are valued for each that the other parts learn from
_HIGHEST = 20.0  # weight


class AdvantageTiltedTraining(ValuedTraining):
    """Plans asked for a return, of which those better than is usual from their state count more.

    A plan's advantage is what it brings and leads to, less the value of its first state, as an
    expectile of the data's (IQL's, arXiv 2110.06169, on plans in place of actions). Of the plans
    that are valued the other parts learn from a half, drawn with weight exp(κ A), A the advantage
    in units of its standard deviation among them. The value is no part of the model.
    """

    @property
    def plan_value(self) -> PlanValue:
        """The value, which the losses alone hold."""
        return self._plan_value

    def make_losses(self) -> dict[str, Any]:
        loc = self.model.normalizer.loc
        with torch.random.fork_rng(devices=[]):  # all else starts as it does without it
            self._plan_value = make_plan_value(self.config, loc.shape[0]).to(loc.device)
        return super().make_losses()

    def make_buffers(
        self, normalized: TensorDictBase, batch_size: int, seed: int, device: torch.device
    ) -> dict[str, TensorDictReplayBuffer]:
        return super().make_buffers(normalized, _POOL * batch_size, seed, device)

    def prepare(self, batch: TensorDictBase) -> TensorDictBase:
        """Each part's batch, by its name: the value's of all plans, the others' of those drawn."""
        value = outcome_parts(batch, self.config.value.discount)
        outcome, members = self._judged(value)
        advantage = (outcome - self.plan_value.value_among(members)).squeeze(-1)
        drawn = batch[tilted_draws(advantage, self.config.training.advantage_tilt, _POOL)]
        parts = {"plan_value": value, **self._batches(drawn, drawn["returns_to_go"][:, 0])}
        if "returns_limit" in self.losses:  # of what any plan may bring
            parts["returns_limit"] = batch.select("observation", "returns_to_go")[:, 0]
        return TensorDict(parts, batch_size=[], device=batch.device).set("index", drawn["index"])


def tilted_draws(advantage: Tensor, tilt: float, pool: int = 1) -> Tensor:
    """Rows drawn with weights exp(κ A), by systematic resampling: each comes up at even distances.

    Args:
        advantage: of each row [B], in any unit.
        tilt: κ, in standard deviations of the advantage.
        pool: rows for each that is drawn.

    Returns:
        Row numbers [B / pool], in their order.

    >>> advantage = torch.tensor([0.0, 0.0, 0.0, 10.0])
    >>> tilted_draws(advantage, 0.0, pool=2).diff()
    tensor([2])
    >>> int((tilted_draws(advantage, 10.0) == 3).sum()) >= 3
    True
    """
    unit = advantage.std().clamp(min=1e-12)
    weight = (tilt * (advantage - advantage.mean()) / unit).exp().clamp(max=_HIGHEST)
    upto = weight.double().cumsum(0)
    count = len(advantage) // pool
    first = torch.rand(1, device=advantage.device)
    places = (torch.arange(count, device=advantage.device) + first) / count * upto[-1]
    return torch.searchsorted(upto, places).clamp(max=len(advantage) - 1)
