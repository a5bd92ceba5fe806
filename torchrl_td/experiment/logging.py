"""Where metrics go: metrics.csv always, W&B or TensorBoard on request."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.image
from PIL import Image
from torchrl import torchrl_logger

from torchrl_td.config import Config
from torchrl_td.errors import InputError, first_line
from torchrl_td.experiment.loggers import log_artifact, make_logger
from torchrl_td.experiment.run_folder import new_file

_SCORE = "evaluation/score/"
BEST = "evaluation/best_score"


class MetricsFile:
    """A table of metrics by training step that survives an interruption.

    It holds only what is a function of the seed, so that two equal runs write equal files;
    times go to the loggers and to ``timing.csv``.

    Args:
        path: the CSV file.
        keep_until: drop rows of later steps, which a resumed run writes again; ``None``
            starts anew.
        read_only: whether the file is left as it is.

    Raises:
        InputError: if the file cannot be written, in use too.
    """

    def __init__(
        self, path: Path, keep_until: int | None = None, *, read_only: bool = False
    ) -> None:
        self.path = path
        self.rows: dict[int, dict[str, str]] = {}
        self.columns: list[str] = []
        if keep_until is not None:
            self._read(keep_until)
        if path.exists() and not read_only:
            self._rewrite()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds metrics to a step's row and saves the file."""
        new = [name for name in metrics if name not in self.columns]
        append = not new and self.path.exists() and step > max(self.rows, default=-1)
        row = self.rows.setdefault(step, {})
        row.update(_as_text(metrics))
        self.columns += new
        if not append:
            self._rewrite()
            return
        try:
            with self.path.open("a", newline="") as file:
                csv.writer(file).writerow(self._cells(step))
        except OSError as error:
            raise self._unwritable(error) from None

    def holds(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Whether a step's row has all of these metrics, and they are the same."""
        return bool(metrics) and _as_text(metrics).items() <= self.rows.get(step, {}).items()

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one metric, for plots."""
        points = [(s, float(r[name])) for s, r in sorted(self.rows.items()) if name in r]
        return [s for s, _ in points], [v for _, v in points]

    def _read(self, keep_until: int) -> None:
        if not self.path.is_file():
            return
        with self.path.open(newline="", errors="replace") as file:
            header, *lines = list(csv.reader(line.replace("\0", "") for line in file)) or [[]]
        self.columns = header[1:]
        for cells in lines:
            # A line that a full disk or a power cut left unfinished belongs to a later step.
            if len(cells) != len(header) or not cells[0].isdigit() or int(cells[0]) > keep_until:
                continue
            values = zip(self.columns, cells[1:], strict=True)
            self.rows[int(cells[0])] = {name: value for name, value in values if value}

    def _rewrite(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["step", *self.columns])
        writer.writerows(self._cells(step) for step in sorted(self.rows))
        try:
            with new_file(self.path) as file:
                file.write(text.getvalue().encode())
        except OSError as error:
            raise self._unwritable(error) from None

    def _cells(self, step: int) -> list[Any]:
        return [step, *(self.rows[step].get(name, "") for name in self.columns)]

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"cannot write {self.path}: {error.strerror}; free some space or make the folder "
            f"writable, then resume"
        )


def _as_text(metrics: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{value:.9g}" for name, value in metrics.items()}


class Metrics:
    """Sends metrics to ``metrics.csv``, ``timing.csv`` and the chosen logger.

    Args:
        config: the run's settings.
        folder: its output folder.
        run_id: names the run to a logger that can take an earlier one up again.
        keep_until: the step a resumed run continues from; ``None`` for a new run.
    """

    def __init__(
        self, config: Config, folder: Path, run_id: str, keep_until: int | None = None
    ) -> None:
        self.config, self.folder = config, folder
        self.file = MetricsFile(folder / "metrics.csv", keep_until)
        self.timing = MetricsFile(folder / "timing.csv", keep_until)
        self.logger = make_logger(config, folder, run_id, keep_until or 0)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes metrics; names starting with ``time/`` are kept apart from the others."""
        timing = {k: v for k, v in metrics.items() if k.startswith("time/")}
        values = {k: v for k, v in metrics.items() if k not in timing}
        again = self.file.holds(step, values)  # as where a run is resumed at its end
        if values:
            self.file.write(step, values)
        if timing:
            self.timing.write(step, timing)
        if self.logger is not None:
            best = self.best_score() if any(name.startswith(_SCORE) for name in metrics) else {}
            values = {**metrics, **best}
            finite = {name: value for name, value in values.items() if math.isfinite(value)}
            with self._skipped_on_error() as logger:
                # TensorBoard would have the same score twice.
                if not (again and hasattr(logger.experiment, "add_scalar")):
                    logger.log_metrics(finite, step=step)

    def best_score(self) -> dict[str, float]:
        """The run's best mean score so far, of whole plans where there are any."""
        names = [name for name in self.file.columns if name.startswith(_SCORE)]
        names = [name for name in names if name != f"{_SCORE}generator"] or names
        scores = [value for name in names for value in self.file.series(name)[1]]
        return {BEST: max(scores)} if scores else {}

    def table(self, name: str, rows: list[dict[str, Any]], step: int) -> None:
        """Shows rows of the same entries as a table in the logger."""
        if self.logger is None or not rows:
            return
        with self._skipped_on_error() as logger:
            columns: list[Any] = list(rows[0])
            cells: list[list[Any]] = [list(row.values()) for row in rows]
            if hasattr(logger.experiment, "add_text"):  # TensorBoard reads Markdown
                lines: list[list[Any]] = [columns, ["---"] * len(columns), *cells]
                text = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
                logger.experiment.add_text(name, text, step)
                return
            import wandb

            table = wandb.Table(columns=columns, data=cells)
            logger.experiment.log({name: table, f"{name}/step": step})

    def picture(self, name: str, path: Path, step: int) -> None:
        """Shows a PNG file in the logger."""
        if self.logger is None:
            return
        with self._skipped_on_error() as logger:
            if hasattr(logger.experiment, "add_image"):  # TensorBoard
                pixels = matplotlib.image.imread(path)
                logger.experiment.add_image(name, pixels[..., :3], step, dataformats="HWC")
                return
            import wandb

            logger.experiment.log({name: wandb.Image(str(path)), f"{name}/step": step})

    def video(self, name: str, path: Path, step: int) -> None:
        """Shows an animated GIF in the logger."""
        if self.logger is None:
            return
        with self._skipped_on_error() as logger:
            if hasattr(logger.experiment, "add_image"):  # TensorBoard shows GIFs as they are
                logger.experiment._get_file_writer().add_summary(_gif_summary(name, path), step)
                return
            import wandb

            video = wandb.Video(str(path), format="gif")
            logger.experiment.log({name: video, f"{name}/step": step})

    def close(self) -> None:
        """Finishes the logger's run, with its checkpoints if it keeps files."""
        if self.logger is None:
            return
        with self._skipped_on_error() as logger:
            if self.config.logger.artifacts:
                log_artifact(logger, self.folder / "checkpoint")
            finish = getattr(logger.experiment, "finish", None)
            (finish or logger.experiment.close)()

    @contextmanager
    def _skipped_on_error(self) -> Iterator[Any]:
        """The logger; if it fails, as when its own process dies, training goes on without it."""
        try:
            yield self.logger
        except Exception as error:  # of many kinds
            self.logger = None
            torchrl_logger.warning(
                f"the logger failed ({first_line(error)}); going on with metrics.csv alone"
            )


def _gif_summary(name: str, path: Path) -> Any:
    """TensorBoard's record of an animated GIF."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    with Image.open(path) as frame:
        width, height = frame.size
    image = Summary.Image(
        height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes()
    )
    return Summary(value=[Summary.Value(tag=name, image=image)])
