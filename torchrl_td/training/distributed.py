"""Several processes training one model, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from tensordict import TensorDictBase
from torch import Tensor

from torchrl_td.errors import InputError

_PATIENCE = timedelta(hours=6)  # others wait this long for the first to evaluate


@dataclass(frozen=True)
class World:
    """This process' place among those of a run.

    Every process draws the same batch and the same noise and takes its share of both, so that a
    run of several processes trains as a single one with the same batch does.

    Attributes:
        rank: which one this is; the first writes files and evaluates.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and evaluates."""
        return self.rank == 0

    def share(self, batch: TensorDictBase) -> TensorDictBase:
        """This process' rows of a batch [B, T].

        Raises:
            InputError: if the batch cannot be shared evenly.
        """
        if self.size == 1:
            return batch
        rows, rest = divmod(batch.shape[0], self.size)
        if rest:
            raise InputError(
                f"training.batch_size={batch.shape[0]} cannot be shared by {self.size} processes; "
                f"take a multiple of {self.size}"
            )
        return batch[self.rank * rows : (self.rank + 1) * rows]

    def weight(self, mask: Tensor, mine: Tensor) -> Tensor:
        """The weight of this rank's mean over valid entries in the mean over all ranks.

        Args:
            mask: of the whole batch [B, T].
            mine: of this process' rows.
        """
        return mine.sum() * self.size / mask.sum().clamp(min=1)

    def mean(self, value: Tensor) -> Tensor:
        """A tensor's mean over the processes; the same on each."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
            value = value / self.size
        return value

    def wait(self) -> None:
        """Until every process got here."""
        if self.size > 1:
            dist.barrier()

    def agree(self, flag: bool, device: torch.device) -> bool:
        """Whether any process raised a flag; the same answer on each."""
        if self.size == 1:
            return flag
        return bool(self.mean(torch.tensor(float(flag), device=device)) > 0)


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Joins the processes that ``torchrun`` started; alone without it.

    Args:
        device: where this process trains; it chooses between NCCL and Gloo.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield World(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process among those of its machine."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device
