"""The report tells apart how an input can end."""

from __future__ import annotations

import signal
import subprocess
import time
from types import SimpleNamespace
from typing import Any

import pytest

from tests.corpus import report
from torchrl_td.errors import InputError


@pytest.mark.parametrize(
    ("error", "refusing", "outcome", "wanted"),
    [
        (None, True, "clear", True),
        (None, False, "right", True),
        (InputError("of other data"), False, "clear", False),
        (AssertionError("Regex pattern did not match."), True, "clear", False),
        (AssertionError("3 == 4"), False, "wrong", False),
        (pytest.fail.Exception("DID NOT RAISE"), True, "wrong", False),
        (KeyError("terminals"), True, "wall", False),
        (AssertionError("Traceback (most recent call last)"), False, "wall", False),
        (subprocess.TimeoutExpired("td", 1), False, "hang", False),
    ],
)
def test_endings(error: Any, refusing: bool, outcome: str, wanted: bool) -> None:
    assert report.classified(error, refusing)[:2] == (outcome, wanted)


@pytest.mark.parametrize(
    ("does", "outcome"),
    [(lambda: signal.raise_signal(signal.SIGKILL), "wall"), (lambda: time.sleep(60), "hang")],
)
def test_processes_that_do_not_end_well(
    does: Any, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "SECONDS", 0.5)
    corpus = report.Corpus()
    monkeypatch.setattr(corpus, "_tried", lambda item: does())
    mark = SimpleNamespace(args=["machines"])
    corpus.pytest_runtest_protocol(
        SimpleNamespace(nodeid="one", get_closest_marker=lambda name: mark)
    )
    assert corpus.endings["machines"]["one"].outcome == outcome
    assert f"| machines | 0 | 0 | {int(outcome == 'wall')} | 0 | {int(outcome == 'hang')} |" in (
        corpus.table()
    )
