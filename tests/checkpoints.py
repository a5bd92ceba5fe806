"""Small checkpoints for tests, and the forging of them with right checksums."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from torchrl.data import Bounded

from tests.settings import composed
from torchrl_td.checkpoint import describe, described_action, save_checkpoint
from torchrl_td.checkpoint.build import build_model
from torchrl_td.config import (
    Config,
    DatasetConfig,
    GeneratorConfig,
    InverseDynamicsConfig,
    RefinerConfig,
    TaskConfig,
    plan_horizon,
)
from torchrl_td.data import Normalizer
from torchrl_td.modules.trajectory_diffuser import Scales

DATASET = {
    "source": "none",
    "hash": "00ff",
    "transitions": 100,
    "return_mean": 1.0,
    "return_best": 2.0,
    "score_mean": 1.0,
    "score_best": 2.0,
}
_COMPONENTS = {
    "about": "components/0000-about/value.json",
    "planner": "components/0001-planner/state.pt",
    "training": "components/0002-training/state.pt",
}
_CHECKSUMS = "components/0003-verify/sha256.json"


def pendulum_config() -> Config:
    """Settings of a planner for Pendulum of a few thousand weights."""
    return Config(
        preset="small",
        task=TaskConfig(name="pendulum", env="Pendulum-v1", horizon=8, max_episode_steps=20),
        dataset=DatasetConfig(source="none"),
        generator=GeneratorConfig(width=16, layers=1, heads=2),
        refiner=RefinerConfig(channels=8, multipliers=[1, 2]),
        inverse_dynamics=InverseDynamicsConfig(hidden_dims=[16]),
    )


def about(step: int = 1) -> dict[str, Any]:
    """What a checkpoint of that planner says of itself."""
    bound = torch.tensor([2.0])
    return describe(pendulum_config(), step, 3, described_action(Bounded(-bound, bound)), DATASET)


def untrained_checkpoint(folder: Path) -> Path:
    """An untrained planner for Pendulum, saved as a run saves its own."""
    normalizer = Normalizer(torch.zeros(3), torch.ones(3), 100.0)
    model = build_model(pendulum_config(), 3, 1, normalizer, Scales.empty(8, 3))
    return save_checkpoint(folder, 1, about(), model.state_dict(), {"step": 1})


def untrained_maze_checkpoint(folder: Path) -> Path:
    """Likewise, of the default planner for PointMaze medium."""
    config, bound = composed("task=pointmaze/medium"), torch.ones(2)
    normalizer = Normalizer(torch.zeros(6), torch.ones(6), config.task.returns_scale)
    model = build_model(config, 6, 2, normalizer, Scales.empty(plan_horizon(config), 6))
    said = describe(config, 1, 6, described_action(Bounded(-bound, bound)), DATASET)
    return save_checkpoint(folder, 1, said, model.state_dict(), {"step": 1})


def forge(path: Path, component: str, content: bytes) -> None:
    """Replaces a component's file and makes the checksums right again."""
    (path / _COMPONENTS[component]).write_bytes(content)
    mend_checksums(path)


def forge_about(path: Path, said: Any) -> None:
    """Likewise, with what a checkpoint says of itself."""
    forge(path, "about", json.dumps(said).encode())


def mend_checksums(path: Path) -> None:
    """Makes the checksums those of all files that there are."""
    files = [file for file in sorted(path.glob("components/**/*")) if file.is_file()]
    sums = {
        file.relative_to(path / "components").as_posix(): hashlib.sha256(
            file.read_bytes()
        ).hexdigest()
        for file in files
        if file != path / _CHECKSUMS
    }
    (path / _CHECKSUMS).write_text(json.dumps(sums))


def saved(state: Any, **options: Any) -> bytes:
    """What ``torch.save`` writes of a state."""
    file = io.BytesIO()
    torch.save(state, file, **options)
    return file.getvalue()
