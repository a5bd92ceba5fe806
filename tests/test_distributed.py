"""Processes that share a batch train as one process with the whole batch does."""

from __future__ import annotations

import csv
import multiprocessing
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

from torchrl_td.checkpoint import find_checkpoint, load_payload
from torchrl_td.config import Config
from torchrl_td.errors import InputError
from torchrl_td.experiment.run import pick_device, run
from torchrl_td.training import distributed
from torchrl_td.training.distributed import World


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


def second(config: Config) -> None:
    """The process that neither writes nor evaluates, which its exit status says."""
    os.environ |= {"RANK": "1", "LOCAL_RANK": "1"}
    os._exit(20 if run(config)["results"] else 10)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`broadcast_buffers` is deprecated")  # a newer name
def test_two_processes_are_one(
    tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process and a second one, with Gloo, against one alone, the global batch the same."""
    words = ("training.steps=4", "training.log_every=1", "training.validate_every=2")
    words = (*words, "training.checkpoint_every=2", "planner.refine_steps=0")
    run(tiny_config(*words))
    two = tiny_config(*words, f"output_dir={tmp_path}/two")
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    # What torchrun sets.
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    for name, value in {**world, "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "_PATIENCE", timedelta(minutes=5))
    # Forked, for to start anew and import everything takes seconds.
    other = multiprocessing.get_context("fork").Process(target=second, args=(two,))
    other.start()
    assert run(two)["results"]
    other.join(timeout=300)
    assert other.exitcode == 10
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
