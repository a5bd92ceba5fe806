"""Running means of the metrics, and detection of divergence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchrl import torchrl_logger

from torchrl_td.errors import InputError

_ABSURD = 1e6  # times the first loss, whose square root a value is off by


class RunningMeans:
    """Means of metrics over the steps since they were last read, kept on the device.

    Adding waits for nothing; a checkpoint holds the sums, so a resumed run logs the same means.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Adds one step's metrics, all of them scalars of one device."""
        self._count += 1
        if not self._sums:
            # Copies, for the next step may write its metrics where these are.
            self._sums = {name: value.double().clone() for name, value in metrics.items()}
            return
        torch._foreach_add_(
            list(self._sums.values()), [metrics[name].double() for name in self._sums]
        )

    def read(self) -> dict[str, float]:
        """The means, in the order of the metrics; starts anew."""
        means = dict.fromkeys(self._sums, 0.0)
        if self._sums:
            values = torch.stack(list(self._sums.values())) / self._count
            means = dict(zip(self._sums, values.tolist(), strict=True))
        self._sums, self._count = {}, 0
        return means

    def state_dict(self) -> dict[str, object]:
        """For a checkpoint."""
        return {"sums": dict(self._sums), "count": self._count}

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        """Restores :meth:`state_dict`."""
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._count = state["count"]


class DivergenceWatch:
    """Stops a run whose losses are no numbers any more, or have exploded, or warns of it.

    Steps are noted on the device and checked together, so that no step waits for it.

    Args:
        explosion: factor by which the loss may exceed what it was at first; ``None`` for any, of
            which a warning tells where it is such that no value can be meant.
    """

    def __init__(self, explosion: float | None) -> None:
        self.explosion = explosion
        self.usual_loss: float | None = None
        self._told = False
        self._noted: list[tuple[Tensor, Tensor]] = []

    def note(self, loss: Tensor, norms: list[Tensor], rows: Tensor) -> None:
        """Notes a step: its loss and gradient norms, scalars, and the batch's rows [B]."""
        self._noted.append((torch.stack([loss, *norms]), rows))

    def take(self) -> tuple[Tensor, list[Tensor]] | None:
        """Loss and norms [S, 1 + N] and rows of the steps noted since; ``None`` if none was."""
        if not self._noted:
            return None
        values, rows = zip(*self._noted, strict=True)
        self._noted = []
        return torch.stack(values), list(rows)

    def check(self, values: Tensor, rows: list[Tensor], step: int) -> None:
        """Checks noted steps.

        Args:
            values: [S, 1 + N], from :meth:`take`.
            rows: dataset rows of each step's batch.
            step: the last of these steps.

        Raises:
            InputError: naming the first bad step and the rows that its windows lie around.
        """
        bad, what = ~torch.isfinite(values).all(-1), "is not finite"
        usual = max(abs(self.usual_loss or 0.0), 1.0)
        absurd = self.explosion is None and not self._told and not bad.any()
        if absurd and (values[:, 0] > _ABSURD * usual).any():
            self._told = True
            torchrl_logger.warning(
                f"the loss is more than {_ABSURD:g} times what it was at first, about step {step}: "
                f"what it trains diverges, and its scores say so; training.explosion=<factor> "
                f"would stop it"
            )
        if self.explosion is not None and self.usual_loss is not None and not bad.any():
            bad = values[:, 0] > self.explosion * self.usual_loss
            what = f"is more than training.explosion={self.explosion:g} times what it was at first"
        if not bad.any():
            return
        first = int(bad.nonzero()[0])
        raise InputError(
            f"training diverged at step {step - len(rows) + first + 1}: the loss or its gradient "
            f"{what}, on the windows around dataset rows {rows[first].tolist()}; the checkpoints "
            f"kept are from before: look at these rows, or lower training.learning_rate or "
            f"training.gradient_clip and start anew"
        )

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint, which is written after a check only."""
        return {"usual_loss": self.usual_loss}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        self.usual_loss = state["usual_loss"]
        self._noted = []
