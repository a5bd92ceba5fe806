"""What a run shows of its training, on a terminal and in a log file."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from torchrl_td.config import Config
from torchrl_td.experiment.progress import Progress


class Terminal(io.StringIO):
    """Standard error of a terminal, or that of a log file."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize(
    ("terminal", "words", "bar", "line"),
    [
        (True, ["progress=true"], True, False),
        (False, ["progress=true"], False, True),  # no copies of the bar
        (True, ["progress=false"], False, False),
        (False, ["progress=false"], False, False),
    ],
)
def test_a_bar_on_a_terminal_and_lines_in_a_log(
    terminal: bool,
    words: list[str],
    bar: bool,
    line: bool,
    tiny_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stderr, said = Terminal(terminal), []
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setattr("torchrl_td.experiment.progress.torchrl_logger.info", said.append)
    progress = Progress(tiny_config(*words), first=True)
    progress.start(0)
    for _ in range(4):
        progress.step()
    progress.losses({"loss_refiner": 0.5, "state_error": 2.0})
    progress.saved(4)
    progress.close()
    shown = stderr.getvalue()
    assert bool(shown) is bar and ("refiner=0.5000" in shown) is bar and "state" not in shown
    assert [text[:13] for text in said] == ["step 4 of 12 "] * line


def test_only_the_first_process_shows_anything(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = Terminal(True)
    monkeypatch.setattr("sys.stderr", stderr)
    progress = Progress(tiny_config("progress=true"), first=False)
    progress.start(0)
    progress.step()
    progress.close()
    assert not stderr.getvalue()


def test_seconds_go_on_from_earlier_starts(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [50.0]
    monkeypatch.setattr("torchrl_td.experiment.progress.time.perf_counter", lambda: now[0])
    progress = Progress(tiny_config(), first=True)
    progress.seconds = 10.0
    now[0] = 60.0  # reading the data
    progress.start(4)
    now[0] = 65.0
    assert progress.rate(14) == 2.0 and progress.seconds == 15.0
    now[0] = 66.0
    assert progress.rate(18) == 4.0
    now[0] = 70.0
    progress.close()
    assert progress.seconds == 20.0
