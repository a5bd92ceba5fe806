"""The losses of all parts on one batch, whole or one process' share of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.objectives.common import LossModule


class JointLoss(nn.Module):
    """Adds the parts' losses up.

    Args:
        losses: loss module of each part, by name. Every scalar that one writes as ``loss_...`` is
            added up, unless it carries no gradient.
        autocast: whether to compute in bfloat16 where PyTorch's autocast holds that safe.
        reads: the entry of the batch that a part's loss is given; it is the batch itself for a part
            that is not named.
    """

    def __init__(
        self,
        losses: dict[str, LossModule],
        autocast: bool = False,
        reads: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.losses = nn.ModuleDict(losses)
        self.autocast = autocast
        self.reads = dict(reads or {})

    def forward(
        self, batch: TensorDictBase, weights: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The losses of a batch.

        Args:
            batch: what the losses read.
            weights: factor on each part's loss, by the part's name; ``None`` takes 1.

        Returns:
            ``total``, to be differentiated, and each loss and its parts, detached.
        """
        total: Tensor | None = None
        metrics: dict[str, Tensor] = {}
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self.autocast):
            for name, module in self.losses.items():
                entries = module(batch[self.reads[name]] if name in self.reads else batch)
                weight = 1.0 if weights is None else weights[name]
                for key, value in entries.items():
                    if value.ndim:
                        continue  # one number an entry, as some losses write beside theirs
                    value = value.float() * weight
                    if key.startswith("loss_") and value.requires_grad:
                        total = value if total is None else total + value
                    metrics[key] = value.detach()
        assert total is not None
        return {"total": total, **metrics}
