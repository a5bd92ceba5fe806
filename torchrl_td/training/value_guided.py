"""How a Trajectory Diffuser of strided plans is trained, asked for returns or for a score."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.data import TensorDictReplayBuffer
from torchrl.objectives import TargetNetUpdater
from torchrl.objectives.value.functional import reward2go

from torchrl_td.config import Config, plan_horizon, plan_stride
from torchrl_td.modules import PlanGenerator, PlanValue
from torchrl_td.objectives import (
    PlanGeneratorLoss,
    PlanInverseDynamicsLoss,
    PlanValueLoss,
    ReturnsLimitLoss,
)
from torchrl_td.objectives.plan_value import outcome_bounds
from torchrl_td.training.buffers import make_buffer
from torchrl_td.training.trajectory_diffuser import SoftUpdateAtOnce, TrajectoryDiffuserTraining

_UNIT = "value"  # among the units, by which rewards are divided


class StridedTraining(TrajectoryDiffuserTraining):
    """Generator, refiner and inverse dynamics on the plans of a large batch of states.

    Every part but the refiner learns from all of the batch: what is acted on is the present
    state, and it gets the loss. The refiner's network costs more, and learns from the first
    ``refiner.batch_size`` plans. The condition is the return that the data brought from there, and
    better episodes may be drawn more often.
    """

    shares_batches = False

    def __init__(self, model: nn.Module, config: Config) -> None:
        super().__init__(model, config)
        self.reads = {name: name for name in self.losses}

    @property
    def generator(self) -> PlanGenerator:
        """The model's generator, which drafts a whole plan at once."""
        assert isinstance(self.model.generator, PlanGenerator)
        return self.model.generator

    def make_losses(self) -> dict[str, Any]:
        model = self.model
        losses = {
            "generator": PlanGeneratorLoss(self.generator),
            "refiner": self.refiner_loss(model),
            "inverse_dynamics": PlanInverseDynamicsLoss(model.inverse_dynamics),
        }
        if model.returns_limit is not None:
            losses["returns_limit"] = ReturnsLimitLoss(model.returns_limit)
        return losses

    def make_buffers(
        self, normalized: TensorDictBase, batch_size: int, seed: int, device: torch.device
    ) -> dict[str, TensorDictReplayBuffer]:
        tilt = self.config.training.return_tilt
        return {"plans": self._plan_buffer(normalized, batch_size, seed, device, return_tilt=tilt)}

    def rows(self, batch: TensorDictBase) -> Tensor:
        return batch["index"][:, 0]

    def prepare(self, batch: TensorDictBase) -> TensorDictBase:
        """Each part's batch, by its name: conditions and drafts of the plans [B, H]."""
        parts = self._batches(batch, batch["returns_to_go"][:, 0])
        if "returns_limit" in self.losses:
            parts["returns_limit"] = batch.select("observation", "returns_to_go")[:, 0]
        return TensorDict(parts, batch_size=[], device=batch.device).set("index", batch["index"])

    def networks_to_compile(self) -> list[nn.Module]:
        return [self.model.refiner_network]

    def masks(self, batch: TensorDictBase) -> dict[str, Tensor]:
        raise NotImplementedError("one process trains all of it")

    def _plan_buffer(
        self,
        data: TensorDictBase,
        batch_size: int,
        seed: int,
        device: torch.device,
        entries: tuple[str, ...] = (),
        return_tilt: float = 0.0,
    ) -> TensorDictReplayBuffer:
        return make_buffer(
            data,
            plan_horizon(self.config),
            batch_size,
            seed,
            device,
            history=1,
            stride=plan_stride(self.config),
            entries=entries,
            return_tilt=return_tilt,
        )

    @torch.no_grad()
    def _batches(self, batch: TensorDictBase, condition: Tensor) -> dict[str, TensorDictBase]:
        """What each part learns from, of plans [B, H] and their conditions [B, 1]."""
        plans = batch.select("observation", "mask")
        plans["returns_to_go"] = condition.unsqueeze(1).expand(-1, batch.shape[1], -1)
        draft = self.generator.draft(batch["observation"][:, 0], condition)
        size = [batch.shape[0]]
        acting = TensorDict(
            plan=TensorDict(draft=draft, batch_size=size),
            condition=condition,
            action=batch["action"][:, 0],
            batch_size=size,
        )
        return {
            "generator": plans,
            "refiner": plans[: self.config.refiner.batch_size],
            "inverse_dynamics": acting,
        }


class ValueGuidedTraining(StridedTraining):
    """Trains a value beside, whose score of the data's plan is the condition.

    Where the episodes were also told a goal that is played, V learns from a share of the plans a
    second time, as if that goal had been theirs. What is usual from a state, which the scores
    measure, and the plans remain those of the data.
    """

    @property
    def plan_value(self) -> PlanValue:
        """The model's value, which planners of another kind lack."""
        assert self.model.plan_value is not None
        return self.model.plan_value

    def make_losses(self) -> dict[str, Any]:
        value = PlanValueLoss(self.plan_value, expectile=self.config.value.expectile)
        return {"plan_value": value, **super().make_losses()}

    def make_updaters(self) -> list[TargetNetUpdater]:
        loss, decay = self.losses["plan_value"], self.config.value.target_decay
        value = SoftUpdateAtOnce(loss, "plan_value_network", decay)
        return [*super().make_updaters(), value]

    def make_buffers(
        self, normalized: TensorDictBase, batch_size: int, seed: int, device: torch.device
    ) -> dict[str, TensorDictReplayBuffer]:
        following, terminates = normalized["next"], _episode_terminates(normalized)
        discount = self.config.value.discount
        entries: tuple[str, ...] = ("discounted_to_go", "terminates")
        rewards = [following["reward"]]
        if "played" in normalized.keys():
            rewards.append(normalized["played", "reward"])
            entries = (*entries, "played_to_go", "played_observation")
        to_go = [reward2go(reward, following["done"], discount) for reward in rewards]
        if _UNIT not in self.units:  # of V; the scores have none
            # The data's own spread; where they reach no goal of theirs, that of the goals told.
            spread = [float(value.double().std().float()) for value in to_go]
            self.units[_UNIT] = next((s for s in spread if s > 1e-6), 1e-6)
        unit, loss = self.units[_UNIT], self.losses["plan_value"]
        if loss.bounds is None:
            paid = torch.cat(rewards) / unit
            loss.bounds = outcome_bounds(paid, discount, bool(terminates.any()))
        data = normalized.copy()
        data["discounted_to_go"] = to_go[0] / unit
        data["terminates"] = terminates.float()
        if "played" in normalized.keys():
            data["played_to_go"] = to_go[1] / unit
            data["played_observation"] = normalized["played", "observation"]
        return {"plans": self._plan_buffer(data, batch_size, seed, device, entries)}

    def prepare(self, batch: TensorDictBase) -> TensorDictBase:
        """Each part's batch, by its name: outcomes, conditions and drafts of the plans [B, H]."""
        own, discount = len(batch), self.config.value.discount
        value = outcome_parts(batch, discount)
        if "played_to_go" in batch.keys():
            value = TensorDict.cat([value, outcome_parts(self._told(batch), discount)])
            number = torch.arange(len(value), device=value["observation"].device)
            value["plan", "scored"] = number < own
        value["plan", "outcome"] = outcome = self.losses["plan_value"].outcome(value)
        # The states are valued once, for their scores and, with a gradient, for the value's loss.
        value["plan", "members"] = members = self.plan_value.members(value["observation"])
        condition = self.plan_value.score_among(members[:own].detach(), outcome[:own])  # [B, 1]
        parts = {"plan_value": value, **self._batches(batch, condition)}
        return TensorDict(parts, batch_size=[], device=batch.device).set("index", batch["index"])

    def _told(self, batch: TensorDictBase) -> TensorDictBase:
        """The batch's first plans, as told a goal that is played; no episode terminates at it."""
        some = batch[: max(1, round(self.config.value.played_goal_share * len(batch)))]
        return some.select("index", "mask").update(
            {
                "observation": some["played_observation"],
                "discounted_to_go": some["played_to_go"],
                "terminates": torch.zeros_like(some["terminates"]),
            }
        )


def outcome_parts(batch: TensorDictBase, discount: float) -> TensorDict:
    """What a plan's outcome is made of, for plans [B, H] that end with their episode at the latest.

    The reward along a plan is the difference of two discounted sums to the episode's end. A plan
    that its episode cuts short has the episode's last state for its end, whose value counts unless
    the episode terminated there.
    """
    to_go, index, mask = batch["discounted_to_go"], batch["index"], batch["mask"]
    steps = (index[:, -1] - index[:, 0]).unsqueeze(-1)  # [B, 1]
    over = ~mask[:, -1:] & (batch["terminates"][:, 0] > 0)  # [B, 1]
    factor = torch.where(over, 0.0, discount ** steps.float())
    return TensorDict(
        observation=batch["observation"][:, 0],
        plan=TensorDict(
            reward=to_go[:, 0] - factor * to_go[:, -1],
            end=batch["observation"][:, -1],
            discount=factor,
            batch_size=[len(batch)],
        ),
        batch_size=[len(batch)],
    )


def _episode_terminates(episodes: TensorDictBase) -> Tensor:
    """Whether the episode of each step [N, 1] ends by termination."""
    number = episodes["episode"].reshape(-1)
    ends = torch.zeros(int(number.max()) + 1, dtype=torch.bool, device=number.device)
    ends[number[episodes["next", "terminated"].reshape(-1)]] = True
    return ends[number].unsqueeze(-1)
