"""The script in upstream's form, run for a few steps on a small dataset recorded here."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from pathlib import Path

from torchrl_td.data.mazes.record_policy import make_environment, random_policy, record_dataset

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "sota-implementations" / "trajectory_diffuser" / "trajectory_diffuser.py"
WORDS = (
    "env.name=Pendulum-v1",
    "env.max_episode_steps=10",
    "env.target_return=-20.0",
    "replay_buffer.dataset=minari:test/sota-v0",
    "replay_buffer.batch_size=4",
    "replay_buffer.returns_scale=100.0",
    "model.horizon=8",
    "model.width=16",
    "model.layers=1",
    "model.channels=8",
    "model.multipliers=[1,2]",
    "model.hidden_dims=[8]",
    "model.refine_steps=2",
    "optim.gradient_steps=4",
    "logger.log_interval=2",
    "logger.eval_iter=4",
    "logger.eval_episodes=1",
)


def test_it_trains_and_plays(tmp_path: Path) -> None:
    env = make_environment("Pendulum-v1", max_episode_steps=20)
    record_dataset(env, "test/sota-v0", random_policy(env), steps=60, progress=False)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *WORDS],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    logged = {}
    for path in tmp_path.rglob("*.csv"):
        with path.open() as file:
            logged[path.stem] = [(int(step), float(value)) for step, value in csv.reader(file)]
    for name in ("loss_generator", "loss_refiner", "loss_inverse_dynamics"):
        assert [step for step, _ in logged[name]] == [2, 4]
        assert all(math.isfinite(value) and value > 0 for _, value in logged[name])
    ((step, score),) = logged["eval/reward" if "eval/reward" in logged else "reward"]
    assert step == 4 and -170 < score < 0
