"""The example that a reader starts with runs as it stands, with fewer and shorter episodes."""

from __future__ import annotations

import pytest

from examples import td_minimal


def test_it_records_trains_and_plays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(td_minimal, "EPISODE", 40)
    score = td_minimal.main(["--steps", "3", "--recorded", "2", "--episodes", "1"])
    # No reward of Pendulum is above 0 or below -16.3.
    assert -16.3 * 40 < score < 0


@pytest.mark.parametrize("option", ["--steps", "--recorded", "--episodes"])
def test_nothing_to_do_is_refused(option: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        td_minimal.main([option, "0"])
    assert f"{option}: 0: give 1 or more" in capsys.readouterr().err
