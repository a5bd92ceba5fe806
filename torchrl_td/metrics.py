"""Where metrics go: metrics.csv always, W&B or TensorBoard on request."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchrl import torchrl_logger

from torchrl_td.config import Config
from torchrl_td.errors import TDError


class MetricsFile:
    """A table of metrics by training step that survives an interruption.

    It holds only what is a function of the seed, so that two equal runs write equal files;
    times go to the loggers and to ``timing.csv``.

    Args:
        path: the CSV file.
        keep_until: drop rows of later steps, which a resumed run writes again; ``None``
            starts anew.
    """

    def __init__(self, path: Path, keep_until: int | None = None) -> None:
        self.path = path
        self.rows: dict[int, dict[str, str]] = {}
        self.columns: list[str] = []
        if keep_until is not None and path.exists():
            with path.open(newline="") as file:
                reader = csv.DictReader(file)
                self.columns = [c for c in (reader.fieldnames or []) if c != "step"]
                for row in reader:
                    step = int(row.pop("step"))
                    if step <= keep_until:
                        self.rows[step] = {k: v for k, v in row.items() if v}

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds metrics to a step's row and saves the file."""
        row = self.rows.setdefault(step, {})
        new = [name for name in metrics if name not in self.columns]
        row.update({name: f"{value:.9g}" for name, value in metrics.items()})
        self.columns += new
        last = max(self.rows) == step and len(row) == len(metrics)
        if last and not new and self.path.exists():
            with self.path.open("a", newline="") as file:
                csv.writer(file).writerow([step, *(row.get(c, "") for c in self.columns)])
            return
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", *self.columns])
            for at in sorted(self.rows):
                writer.writerow([at, *(self.rows[at].get(c, "") for c in self.columns)])
        temporary.replace(self.path)

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one metric, for plots."""
        points = [(s, float(r[name])) for s, r in sorted(self.rows.items()) if name in r]
        return [s for s, _ in points], [v for _, v in points]


class Metrics:
    """Sends metrics to ``metrics.csv``, ``timing.csv`` and the chosen logger.

    Args:
        config: the run's settings.
        folder: its output folder.
        keep_until: the step a resumed run continues from; ``None`` for a new run.
    """

    def __init__(self, config: Config, folder: Path, keep_until: int | None = None) -> None:
        self.file = MetricsFile(folder / "metrics.csv", keep_until)
        self.timing = MetricsFile(folder / "timing.csv", keep_until)
        self.logger = make_logger(config, folder)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes metrics; names starting with ``time/`` are kept apart from the others."""
        timing = {k: v for k, v in metrics.items() if k.startswith("time/")}
        values = {k: v for k, v in metrics.items() if k not in timing}
        if values:
            self.file.write(step, values)
        if timing:
            self.timing.write(step, timing)
        if self.logger is not None:
            for name, value in metrics.items():
                if math.isfinite(value):
                    self.logger.log_scalar(name, value, step=step)

    def close(self) -> None:
        """Finishes the logger's run."""
        if self.logger is not None and hasattr(self.logger.experiment, "finish"):
            self.logger.experiment.finish()


def make_logger(config: Config, folder: Path) -> Any | None:
    """TorchRL's logger of the kind asked for; ``None`` for CSV alone.

    W&B falls back to offline where it cannot log in; the run is never lost to it.

    Raises:
        TDError: if the logger's package is not installed.
    """
    kind = config.logger.kind
    if kind == "csv":
        return None
    name = f"{config.task.name}-{config.preset}-seed{config.seed}".replace("/", "-")
    try:
        if kind == "tensorboard":
            from torchrl.record.loggers.tensorboard import TensorboardLogger

            return TensorboardLogger(exp_name=name, log_dir=str(folder / "tensorboard"))
        from torchrl.record.loggers.wandb import WandbLogger
    except ImportError as error:
        raise TDError(
            f"logger={kind} needs a package that is not installed: pip install -e '.[wandb]'"
        ) from error
    arguments = {"exp_name": name, "save_dir": str(folder), "project": config.logger.project}
    try:
        return WandbLogger(offline=config.logger.mode == "offline", **arguments)
    except ImportError as error:
        raise TDError(f"logger={kind}: {error}; pip install -e '.[wandb]'") from error
    except Exception as error:  # no network, no login: wandb raises errors of its own
        torchrl_logger.warning(f"W&B could not start online ({error}); logging offline")
        return WandbLogger(offline=True, **arguments)
