"""Offline episodes: where they come from, how they are checked and cut into windows."""

from __future__ import annotations

from torchrl_td.data.displacement_scale import displacement_scale
from torchrl_td.data.keys import observation_keys
from torchrl_td.data.load import load_episodes, load_with_identity
from torchrl_td.data.mazes.pointmaze import ensure_pointmaze, record_pointmaze
from torchrl_td.data.normalizer import Normalizer
from torchrl_td.data.transitions import returns_to_go
from torchrl_td.data.validation import check_matches_env
from torchrl_td.data.window_sampler import WindowSampler

__all__ = [
    "Normalizer",
    "WindowSampler",
    "check_matches_env",
    "displacement_scale",
    "ensure_pointmaze",
    "load_episodes",
    "load_with_identity",
    "observation_keys",
    "record_pointmaze",
    "returns_to_go",
]
