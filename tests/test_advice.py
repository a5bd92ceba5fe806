"""What messages advise, in a checkout and where the package is installed."""

from __future__ import annotations

import runpy
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


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_every_example_says_how_to_call_it(
    example: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [example, "--help"])
    try:
        runpy.run_path(str(EXAMPLES / example), run_name="__main__")
    except SystemExit as ended:
        assert not ended.code
    out = capsys.readouterr().out
    assert out.count(f"python examples/{example}") > 1 or out.count("td-offline ") > 5
