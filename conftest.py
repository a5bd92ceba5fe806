"""Settings of every test run, the library's docstring examples included.

This file stands at the root because pytest reads `tests/conftest.py` for `tests/` only: an
example run by `pytest torchrl_td` would otherwise see the user's own datasets.
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import tempfile
from pathlib import Path

# Libraries read these when they are imported, so they are set before any import of one.
# Tests never touch the user's datasets: all that Minari writes goes to a folder of this session.
_DATASETS = Path(tempfile.mkdtemp(prefix="torchrl_td_tests_"))
os.environ["MINARI_DATASETS_PATH"] = str(_DATASETS)
os.environ["MPLBACKEND"] = "Agg"
os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Imports and fixtures allocate much that is never garbage; looking for it took 8 % of the time.
gc.set_threshold(20_000, 20, 50)

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

# A shared machine makes single examples slow now and then, which says nothing about the code;
# derandomised, so that a run fails for a change of code and for nothing else.
hypothesis.settings.register_profile("project", deadline=None, derandomize=True)
hypothesis.settings.load_profile("project")


def pytest_configure(config: pytest.Config) -> None:
    """Use few threads: worker processes of the tests share the same cores."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_collection_finish() -> None:
    """Leave what is imported and collected out of every later search for garbage."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: many a test waits for a program of its own."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `gpu` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the session's datasets."""
    shutil.rmtree(_DATASETS, ignore_errors=True)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Start every test, doctests included, from the same random state."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def datasets_path() -> Path:
    """The folder that Minari uses in this session."""
    return _DATASETS
