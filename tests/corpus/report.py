"""Tries every input of the corpus in a process of its own and counts what happened.

    python tests/corpus/report.py [--list] [words of pytest, as -k minari]

The corpus is the tests marked `stranger`: one input a kind, with the line that refuses it or the
values it must give. Each ends as

    clear   refused in one line
    right   accepted, with the right values
    wall    a traceback or a crash
    wrong   accepted with wrong values, refused too late or without its name, or code of it ran
    hang    not over after two minutes

The exit status is 1 where one ends otherwise than its test wants.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from _pytest.runner import runtestprotocol

from torchrl_td.errors import InputError

SECONDS = 120
OUTCOMES = ("clear", "right", "wall", "wrong", "hang")


class Ending(NamedTuple):
    outcome: str
    wanted: bool
    says: str


def classified(error: BaseException | None, refusing: bool) -> Ending:
    """What a test's exception, if there is one, says of its input.

    Args:
        error: that of the test.
        refusing: whether the test wants the input refused.
    """
    if error is None:
        return Ending("clear" if refusing else "right", True, "")
    says = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if isinstance(error, subprocess.TimeoutExpired):
        return Ending("hang", False, says)
    if isinstance(error, InputError) or "Regex pattern did not match" in str(error):
        return Ending("clear", False, says)  # of other words, or of what should be accepted
    accepted = isinstance(error, (AssertionError, pytest.fail.Exception))
    walled = not accepted or "Traceback" in says  # of a program that the test has run
    return Ending("wall" if walled else "wrong", False, says)


class Corpus:
    """Runs each marked test in a child process and notes how it ended."""

    def __init__(self) -> None:
        self.endings: dict[str, dict[str, Ending]] = defaultdict(dict)
        self._error: BaseException | None = None
        self._refusing = False

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [
            item
            for item in items
            if item.get_closest_marker("stranger")
            and not getattr(getattr(item, "function", None), "is_hypothesis_test", False)
        ]

    def pytest_runtest_makereport(self, call: pytest.CallInfo) -> None:
        if call.excinfo is not None and self._error is None:
            self._error = call.excinfo.value

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: Any) -> bool:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            os.write(writing, json.dumps(self._tried(item)).encode())
            os._exit(0)
        os.close(writing)
        ending = self._awaited(child, reading)
        os.close(reading)
        if ending.outcome != "skipped":
            self.endings[item.get_closest_marker("stranger").args[0]][item.nodeid] = ending
        sys.stderr.write(f"{ending.outcome:7} {item.nodeid} {ending.says}\n")
        return True

    def _tried(self, item: Any) -> Ending:
        raises = pytest.raises

        def noted(expected: Any, *args: Any, **kwargs: Any) -> Any:
            self._refusing |= expected in (InputError, SystemExit)
            return raises(expected, *args, **kwargs)

        pytest.raises = noted  # type: ignore[assignment]
        runtestprotocol(item, log=False, nextitem=None)
        if isinstance(self._error, pytest.skip.Exception):
            return Ending("skipped", True, str(self._error))
        return classified(self._error, self._refusing)

    @staticmethod
    def _awaited(child: int, reading: int) -> Ending:
        ready, _, _ = select.select([reading], [], [], SECONDS)
        if not ready:
            os.killpg(child, signal.SIGKILL)
        said = os.read(reading, 1 << 16) if ready else b""
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if not ready:
            return Ending("hang", False, f"not over after {SECONDS} s")
        if not said:
            return Ending("wall", False, f"the process ended with status {status}")
        return Ending(*json.loads(said))

    def table(self) -> str:
        """The counts, as Markdown."""
        lines = [f"| | {' | '.join(OUTCOMES)} |", "| --- |" + " ---: |" * len(OUTCOMES)]
        total: Counter[str] = Counter()
        for part, endings in self.endings.items():
            counts = Counter(ending.outcome for ending in endings.values())
            total += counts
            lines.append(f"| {part} | " + " | ".join(str(counts[o]) for o in OUTCOMES) + " |")
        lines.append("| all | " + " | ".join(str(total[o]) for o in OUTCOMES) + " |")
        return "\n".join(lines)


def main(words: list[str]) -> int:
    """Tries the corpus, with pytest's own words; the exit status."""
    tests = Path(__file__).resolve().parents[1]
    began, corpus = time.monotonic(), Corpus()
    options = ["--capture=no", "-o", "addopts=--import-mode=importlib", "-p", "no:terminal"]
    pytest.main(
        [str(tests), *options, *(word for word in words if word != "--list")], plugins=[corpus]
    )
    if "--list" in words:
        for part, endings in corpus.endings.items():
            for name, ending in endings.items():
                print(f"{part}: {ending.outcome}: {name} {ending.says}".rstrip())
    print(f"{corpus.table()}\n\n{time.monotonic() - began:.0f} s")
    found = [ending for endings in corpus.endings.values() for ending in endings.values()]
    return int(not found or not all(ending.wanted for ending in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
