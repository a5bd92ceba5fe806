"""Kills a short run with SIGKILL at random moments, resumes it after each, compares the end.

    python tests/faults/kill.py --kills 20

Asserts after every kill that nothing saved was lost, and at the end that metrics, weights,
optimiser, random states and scores are those of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def long_enough(kills: int) -> tuple[str, ...]:
    """Words for a run that so many kills meet training, saving and evaluating."""
    steps = 20 * kills + 20
    return (f"training.steps={steps}", "training.checkpoint_every=5", "training.evaluate_every=40")


def start(config: Any) -> multiprocessing.process.BaseProcess:
    """A run in a process of its own, forked from one that has imported everything and done no more.

    Not from this one: threads do not survive a fork, and an object of another test that waits for
    its own, when it is collected, brings the run down.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torchrl_td.experiment.run"])
    process = context.Process(target=_child, args=(config,))
    process.start()
    return process


def _child(config: Any) -> None:
    from torchrl_td.experiment.run import run

    torch.manual_seed(os.getpid())  # a new process knows nothing of the last one's randomness
    run(config)
    os._exit(0)


def saved_step(folder: Path) -> int:
    """Step of the newest intact checkpoint; 0 without one."""
    from torchrl_td.checkpoint import find_checkpoint, load_about
    from torchrl_td.errors import InputError

    try:
        return int(load_about(find_checkpoint(folder / "checkpoint"))["step"])
    except InputError:
        return 0


def logged_steps(folder: Path) -> list[int]:
    """Steps that have a whole row in metrics.csv."""
    if not (folder / "metrics.csv").exists():
        return []
    with (folder / "metrics.csv").open(newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    return [int(row[0]) for row in rows if len(row) == len(header)]


def trial(make: Callable[..., Any], folder: Path, kills: int, seed: int) -> list[dict[str, Any]]:
    """Runs undisturbed, then with kills; returns what each kill found.

    Args:
        make: settings from ``key=value`` words.
        folder: where both runs may write; they are in ``whole`` and ``killed``.
        kills: how many.
        seed: of the moments.
    """
    whole, killed = folder / "whole", folder / "killed"
    process = start(make(f"output_dir={whole}"))
    process.join()
    assert process.exitcode == 0, "the undisturbed run failed"
    moments = random.Random(seed)
    found, saved = [], 0
    for _ in range(kills):
        process = start(make(f"output_dir={killed}", "resume=auto"))
        # Some steps on, however slow this machine is, and then at any moment.
        wanted_step = saved + moments.randint(0, 30)
        while process.is_alive() and max(logged_steps(killed), default=0) < wanted_step:
            time.sleep(0.01)
        wait = moments.uniform(0.0, 0.5)
        process.join(wait)
        ended = process.exitcode is not None
        assert process.exitcode in (None, 0), "a resumed run failed"
        process.kill()  # SIGKILL
        process.join()
        now = saved_step(killed)
        assert now >= saved, f"the checkpoint of step {saved} was lost, {now} is the newest"
        config = make(f"output_dir={killed}")
        every = config.training.log_every
        wanted = range(every, now + 1, every)
        assert set(wanted) <= set(logged_steps(killed)), "rows of metrics.csv were lost"
        saved = now
        found.append({"wanted_step": wanted_step, "saved_step": now, "had_ended": ended})
    process = start(make(f"output_dir={killed}", "resume=auto"))
    process.join()
    assert process.exitcode == 0, "the last resumed run failed"
    return found


def main() -> None:
    """The script's own settings: a tiny dataset and a run of some seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["MINARI_DATASETS_PATH"] = f"{name}/datasets"
        os.environ.setdefault("MPLBACKEND", "Agg")
        sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
        from tests.settings import TINY_RUN, composed
        from tests.test_run import assert_same_run
        from torchrl_td.data.mazes.pointmaze import record_pointmaze

        torch.set_num_threads(1)
        source = "minari:" + record_pointmaze("umaze", 3600, seed=0, progress=False)
        words = [*TINY_RUN, f"dataset.source={source}", *long_enough(given.kills)]

        def make(*more: str) -> Any:
            return composed(*words, *more)

        for kill in trial(make, Path(name), given.kills, given.seed):
            sys.stdout.write(json.dumps(kill) + "\n")
        assert_same_run(Path(name) / "whole", Path(name) / "killed")
        sys.stdout.write(f"{given.kills} kills: the end is that of an undisturbed run\n")


if __name__ == "__main__":
    main()
