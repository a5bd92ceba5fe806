"""What messages advise, in a checkout and where the package is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from torchrl_td import advice
from torchrl_td.commands.usage import usage

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
HELP = "td-data describe x; td-offline --help"


def test_advice_to_who_has_installed_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "_IN_CHECKOUT", False)
    assert advice.install("robotics") == "pip install 'torchrl_td[robotics]'"
    assert usage(HELP) == HELP


def test_advice_in_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "_IN_CHECKOUT", True)
    assert advice.install("robotics") == "pip install -e '.[robotics]'"
    want = "python examples/td_data.py describe x; python examples/td_offline.py --help"
    assert usage(HELP) == want


def test_every_example_says_how_to_call_it() -> None:
    """In one process of their own: a program puts its standard output in order as it ends."""
    examples = sorted(path.name for path in EXAMPLES.glob("*.py"))
    done = subprocess.run(
        [sys.executable, "-c", _ALL_HELP, str(EXAMPLES), *examples], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    for example, (status, text) in said.items():
        assert not status, text
        called = f"python examples/{example}"
        assert text.count(called) > 1 or text.count("td-offline ") > 5, text
    assert list(said) == examples


_ALL_HELP = """
import contextlib, io, json, runpy, sys
folder, *names = sys.argv[1:]
said = {}
for name in names:
    sys.argv, status = [name, "--help"], None
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            runpy.run_path(f"{folder}/{name}", run_name="__main__")
        except SystemExit as ended:
            status = ended.code
    said[name] = status, text.getvalue()
print(json.dumps(said))
"""
