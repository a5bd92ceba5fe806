"""NaN and Inf: described with a warning that says where, and never trained on."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from tests.data.helpers import SAMPLE, WriteMinari, main_file
from torchrl_td.data import load_episodes
from torchrl_td.data.statistics import describe, episode_returns, quality_warnings
from torchrl_td.data.validation import NotFiniteError


@pytest.fixture
def damaged_d4rl(tmp_path: Path) -> str:
    """Two bad states in episode 0, and a bad reward in episode 2."""
    path = Path(shutil.copyfile(SAMPLE, tmp_path / SAMPLE.name))
    path.chmod(0o644)
    with h5py.File(path, "r+") as file:
        file["observations"][17, 3] = np.nan
        file["observations"][18, 4] = np.inf
        file["rewards"][310] = np.nan
    return f"d4rl:{path}"


@pytest.fixture
def damaged_minari(write_minari: WriteMinari) -> str:
    write_minari("made/damaged-v0", lengths=(20, 30, 25))
    with h5py.File(main_file("made/damaged-v0"), "r+") as file:
        file["episode_1/observations"][30, 2] = np.nan  # what its last step led to
        file["episode_2/actions"][3, 0] = np.inf
    return "minari:made/damaged-v0"


def test_a_damaged_d4rl_file(damaged_d4rl: str) -> None:
    with pytest.raises(NotFiniteError, match="observations holds NaN or Inf, first in row 17"):
        load_episodes(damaged_d4rl)
    data, sound = load_episodes(damaged_d4rl, finite=False), load_episodes(f"d4rl:{SAMPLE}")
    returns = episode_returns(data)[0]
    assert torch.isnan(returns).tolist() == [False, False, True, False]
    want = episode_returns(sound)[0][[0, 1, 3]]
    assert torch.equal(returns[[0, 1, 3]], want)
    numbers = describe(data)
    assert numbers["return"]["mean"] == pytest.approx(float(want.mean()))
    column = np.delete(sound["observation"][:, 3].numpy(), 17)
    assert numbers["observation"]["low"][3] == pytest.approx(column.min())
    assert numbers["observation"]["high"][3] == pytest.approx(column.max())
    found = [w for w in quality_warnings(data) if "NaN" in w]
    assert [w.partition(",")[0] for w in found] == [
        "observation holds NaN or Inf in 2 of 600 steps",
        "next/observation holds NaN or Inf in 2 of 600 steps",
        "reward holds NaN or Inf in 1 of 600 steps",
    ]
    assert "first in row 17 (episode 0), in dimension 3, 4:" in found[0]
    assert "first in row 310 (episode 2):" in found[2]
    # Looking at it left nothing behind that training would take for sound data.
    with pytest.raises(NotFiniteError, match="observations holds NaN or Inf, first in row 17"):
        load_episodes(damaged_d4rl)


def test_a_damaged_minari_dataset(damaged_minari: str) -> None:
    with pytest.raises(NotFiniteError, match="actions holds NaN or Inf, first in row 53"):
        load_episodes(damaged_minari)
    found = quality_warnings(load_episodes(damaged_minari, finite=False))
    assert any(
        w.startswith("next/observation holds NaN or Inf in 1 of 75 steps, first in row 49 (epi")
        for w in found
    )
    assert any(
        w.startswith("action holds NaN or Inf in 1 of 75 steps, first in row 53") for w in found
    )


def test_nothing_finite_at_all(damaged_d4rl: str) -> None:
    with h5py.File(damaged_d4rl.removeprefix("d4rl:"), "r+") as file:
        file["rewards"][:] = np.nan
        file["observations"][:, 0] = -np.inf
    data = load_episodes(damaged_d4rl, finite=False)
    numbers = describe(data)
    for key in ("return", "reward", "suggested_target_return", "suggested_returns_scale"):
        assert numbers[key] is None
    assert numbers["observation"]["low"][0] is None is numbers["observation"]["high"][0]
    assert "all rewards are zero" not in quality_warnings(data)


def test_returns_that_float32_cannot_hold(tmp_path: Path) -> None:
    path = Path(shutil.copyfile(SAMPLE, tmp_path / SAMPLE.name))
    path.chmod(0o644)
    with h5py.File(path, "r+") as file:
        first = int(np.flatnonzero(file["timeouts"][()] | file["terminals"][()])[0]) + 1
        file["rewards"][first : first + 10] = -1e38
    with pytest.raises(NotFiniteError) as caught:
        load_episodes(f"d4rl:{path}")
    line = str(caught.value)
    assert line.startswith(f"{path}: rewards add up to -1e+39 in episode 1, more than float32")
    assert line.endswith("divide the rewards by a constant")
    data = load_episodes(f"d4rl:{path}", finite=False)
    assert describe(data)["return"]["min"] == pytest.approx(-1e39)
    assert any(w.startswith("returns_to_go holds NaN or Inf in ") for w in quality_warnings(data))
