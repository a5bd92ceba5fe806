"""Base class of algorithms: a model, its losses, and the batches they learn from."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.data import RandomSampler, TensorDictReplayBuffer, TensorStorage
from torchrl.objectives import TargetNetUpdater

from torchrl_td.config import Config
from torchrl_td.data.normalizer import Normalizer


class Algorithm(ABC):
    """One way to learn from offline episodes; the trainer does the rest.

    The trainer samples every buffer, has :meth:`prepare` add to the batch what losses need of one
    another, adds the losses up, clips, steps the optimiser and then :meth:`update_targets`.

    Args:
        model: what a checkpoint holds, its normaliser included; on its device.
        config: the run's settings.

    Attributes:
        losses: loss module of each part, by name; each writes ``loss_<name>`` or, where it trains
            several parts, ``loss_...`` of each.
        reads: the buffer that a part's loss learns from, by the part's name. One that is not
            named is given the whole batch: of one buffer its sample, of several all by name.
        updaters: of target networks.
        units: by name, what rewards are learned in; fitted on the training data, which come first,
            unless they are given before. A checkpoint keeps them.
        shares_batches: whether several processes can train it together.
    """

    shares_batches = False

    def __init__(self, model: nn.Module, config: Config) -> None:
        self.model, self.config = model, config
        self.units: dict[str, float] = {}
        self.losses: dict[str, Any] = self.make_losses()
        self.reads: dict[str, str] = {}
        self.updaters: list[TargetNetUpdater] = self.make_updaters()

    @abstractmethod
    def make_losses(self) -> dict[str, Any]:
        """The loss modules, by the name of what they train."""

    def make_updaters(self) -> list[TargetNetUpdater]:
        """Of the target networks that the losses keep."""
        return []

    @abstractmethod
    def make_buffers(
        self, normalized: TensorDictBase, batch_size: int, seed: int, device: torch.device
    ) -> dict[str, TensorDictReplayBuffer]:
        """Buffers over a normalised dataset [N], by name.

        Args:
            normalized: the dataset.
            batch_size: what one sample holds.
            seed: of a sampler with a generator of its own.
            device: where the batches are wanted.

        Raises:
            InputError: the data is too short for them.
        """

    def keep(self, episodes: TensorDictBase) -> Tensor | None:
        """Rows of the raw training episodes [N] to learn from; ``None`` for all."""
        return None

    def prepare(self, batch: TensorDictBase) -> TensorDictBase:
        """A batch with what one part's loss needs of another part; called on every batch."""
        return batch

    def rows(self, batch: TensorDictBase) -> Tensor:
        """Dataset rows [B] that a batch lies around, to be named where training diverges."""
        return batch["index"]

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """What is trained, by part: each has a gradient norm, and a clip of its own if wanted."""
        return {
            name: [p for p in loss.parameters() if p.requires_grad]
            for name, loss in self.losses.items()
        }

    def weight_decay(self, part: str) -> float:
        """AdamW's of a part."""
        return 0.0

    def decays(self, part: str) -> bool:
        """Whether a part's learning rate falls as ``training.decay_steps`` says."""
        return True

    def update_targets(self, step: int) -> None:
        """Moves the target networks after a step, the first being 0."""
        for updater in self.updaters:
            updater.step()

    def validation_losses(self) -> list[tuple[str, nn.Module, str]]:
        """What is measured on held-out episodes: the part, its loss, what its names end in."""
        return [(name, loss, "") for name, loss in self.losses.items()]

    def acting_state(self) -> Mapping[str, Tensor]:
        """State dict of the model as it is to act: with averaged weights, where there are."""
        return self.model.state_dict()

    def acting_model(self) -> Any:
        """A copy of the model as it is to act."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.acting_state())
        return model.eval()

    def networks_to_compile(self) -> list[nn.Module]:
        """What ``training.compile`` compiles."""
        return []

    def masks(self, batch: TensorDictBase) -> dict[str, Tensor]:
        """Which entries of a batch count in the mean of each part's loss; for shared batches."""
        raise NotImplementedError

    def take_shard(self, rank: int, size: int) -> None:
        """Tells the losses which share of a batch's noise is theirs."""
        return  # most draw none


class Baseline(Algorithm):
    """An algorithm that learns from single steps drawn evenly, and acts by one network."""

    entries: tuple[Any, ...] = ("observation", "action")
    """What a batch holds."""
    chooses = False
    """Whether its actions may be choices."""

    @classmethod
    @abstractmethod
    def build(
        cls, config: Config, normalizer: Normalizer, action_low: Tensor, action_high: Tensor
    ) -> nn.Module:
        """The untrained model; it has ``normalizer``, ``actor(config)`` and
        ``parameter_counts()``.

        Args:
            config: the run's settings.
            normalizer: fitted on the dataset.
            action_low: lowest actions [A].
            action_high: highest actions [A].
        """

    def make_buffers(
        self, normalized: TensorDictBase, batch_size: int, seed: int, device: torch.device
    ) -> dict[str, TensorDictReplayBuffer]:
        storage = TensorStorage(normalized.select(*self.entries).to(device), device=device)
        buffer = TensorDictReplayBuffer(
            storage=storage, sampler=RandomSampler(), batch_size=batch_size
        )
        return {"steps": buffer}
