"""How far training is and how long it took: a bar on a terminal, lines in a log file."""

from __future__ import annotations

import time
from collections.abc import Mapping

from torchrl import torchrl_logger
from tqdm import tqdm

from torchrl_td.config import Config


class Progress:
    """Shows a run's training and times it.

    Where standard error is no terminal there is no bar, which would fill a log file with copies of
    itself, and each checkpoint is a line instead.

    Args:
        config: the run's settings.
        first: whether this is the first process, the one that shows anything.

    Attributes:
        seconds: spent training so far, over all starts of the run, its evaluations included.
    """

    def __init__(self, config: Config, first: bool) -> None:
        self.seconds = 0.0
        self._steps = config.training.steps
        self._shown = config.progress and first
        self._bar = tqdm(disable=True)
        self._started = time.perf_counter()
        self._logged = (0, 0.0)  # step and seconds

    def start(self, step: int) -> None:
        """Training begins, after ``step`` steps and ``seconds`` of earlier starts."""
        self._started = time.perf_counter() - self.seconds
        self._logged = (step, self.seconds)
        self._bar = tqdm(
            total=self._steps,
            initial=step,
            desc="training",
            unit="step",
            disable=None if self._shown else True,  # None: on a terminal alone
        )

    def step(self) -> None:
        """One step was taken."""
        self._bar.update()

    def clock(self) -> None:
        """Brings ``seconds`` up to now."""
        self.seconds = time.perf_counter() - self._started

    def rate(self, step: int) -> float:
        """Steps a second since this was last asked."""
        self.clock()
        before, seconds = self._logged
        self._logged = (step, self.seconds)
        return (step - before) / max(self.seconds - seconds, 1e-9)

    def losses(self, means: Mapping[str, float]) -> None:
        """Shows the losses among these means beside the bar."""
        shown = {k.removeprefix("loss_"): f"{v:.4f}" for k, v in means.items() if "loss_" in k}
        self._bar.set_postfix(shown, refresh=False)

    def saved(self, step: int) -> None:
        """A checkpoint was written."""
        if self._shown and self._bar.disable:
            torchrl_logger.info(
                f"step {step} of {self._steps} after {self.seconds:.0f} s: checkpoint saved"
            )

    def close(self) -> None:
        """Training has ended."""
        self.clock()
        self._bar.close()
