"""Processes that share a batch train as one process with the whole batch does."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

from tests.settings import TINY_RUN
from torchrl_td.checkpoint import find_checkpoint, load_payload
from torchrl_td.config import Config
from torchrl_td.errors import InputError
from torchrl_td.experiment.run import pick_device, run
from torchrl_td.training.distributed import World

ROOT = Path(__file__).resolve().parents[1]


def test_shares_make_up_the_batch() -> None:
    batch = TensorDict(x=torch.arange(6), batch_size=[6])
    shares = [World(rank, 3).share(batch)["x"] for rank in range(3)]
    assert torch.equal(torch.cat(shares), batch["x"])
    assert World().share(batch) is batch
    with pytest.raises(InputError, match="cannot be shared by 4 processes; take a multiple of 4"):
        World(0, 4).share(batch)


def test_weights_make_the_mean_of_means_the_mean() -> None:
    mask = torch.rand(4, 5) > 0.5
    values = torch.randn(4, 5)
    whole = values[mask].mean()
    parts = []
    for rank in range(2):
        mine = slice(2 * rank, 2 * rank + 2)
        weight = World(rank, 2).weight(mask, mask[mine])
        parts.append(values[mine][mask[mine]].mean() * weight)
    torch.testing.assert_close(sum(parts) / 2, whole)


@pytest.mark.slow
def test_two_processes_are_one(
    tiny_config: Callable[..., Config], tmp_path: Path, tiny_pointmaze: str
) -> None:
    """`torchrun` with Gloo against a single process, the global batch the same."""
    words = ("training.steps=4", "training.log_every=1", "training.validate_every=2")
    words = (*words, "training.checkpoint_every=2", "planner.refine_steps=0")
    run(tiny_config(*words))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = str(ROOT / "examples" / "td_offline.py")
    given = [*TINY_RUN, *words, f"dataset.source={tiny_pointmaze}", f"output_dir={tmp_path}/two"]
    done = subprocess.run(
        [*launch, script, *given],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("generator alone") == 1  # one of them evaluates
    tables = []
    for name in ("run", "two"):
        with (tmp_path / name / "metrics.csv").open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    assert len(tables[0]) == len(tables[1]) == 4
    for one, two in zip(*tables, strict=True):
        assert one.keys() == two.keys()
        for name, value in one.items():
            assert bool(value) == bool(two[name]), name
            if value:
                assert float(two[name]) == pytest.approx(float(value), rel=2e-3), name
    states = [
        load_payload(find_checkpoint(tmp_path / n), "training", "cpu") for n in ("run", "two")
    ]
    # The same numbers were drawn, so a run may go on with another number of processes.
    left, right = (state["trainer"]["rng"]["torch_cpu"] for state in states)
    assert torch.equal(left, right)
    assert torch.equal(*(s["trainer"]["samplers"]["windows"]["generator"] for s in states))


def test_each_process_touches_its_own_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A context on the first GPU, too, would take half a gigabyte there for each process."""
    chosen, touched = [], []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch, "zeros", lambda *size, device: touched.append(device))
    own = torch.device("cuda", 3)
    assert pick_device("cuda") == pick_device("auto") == own
    assert set(chosen) == set(touched) == {own}
