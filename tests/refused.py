"""A run that is refused, with one line."""

from __future__ import annotations

import pytest

from torchrl_td.config import Config
from torchrl_td.errors import InputError
from torchrl_td.experiment.run import run


def refused(config: Config, match: str, overrides: list[str] | None = None) -> None:
    with pytest.raises(InputError, match=match) as caught:
        run(config, overrides)
    assert "\n" not in str(caught.value)
