"""Small Gymnasium environments of many shapes: a point in the plane that is paid for being at 0."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

STEPS = 12
BOX = spaces.Box(-10, 10, (2,), np.float32)


class Point(gymnasium.Env):
    """Episodes end by the step limit; success is to be near 0."""

    observation_space: Any = BOX
    action_space: Any = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        if options and options.get("impossible"):
            raise ValueError("no such start")
        self.x = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        self.t = 0
        return self.observed(), {}

    def step(self, action: Any):
        moved = np.resize(np.asarray(action, np.float64), 2)
        self.x = np.clip(self.x + 0.1 * moved, -5, 5).astype(np.float32)
        self.t += 1
        return self.observed(), float(1 - np.abs(self.x).sum()), False, False, self.info()

    def observed(self) -> Any:
        return self.x.copy()

    def info(self) -> dict[str, Any]:
        return {"is_success": True, "distance": float(np.abs(self.x).sum()), "name": "point"}


class Integers(Point):
    observation_space = spaces.Box(-1000, 1000, (2,), np.int32)

    def observed(self) -> Any:
        return np.round(100 * self.x).astype(np.int32)


class Row(Point):
    observation_space = spaces.Box(-10, 10, (1, 2), np.float32)

    def observed(self) -> Any:
        return self.x[None].copy()


class Picture(Point):
    observation_space = spaces.Box(0, 255, (4, 3, 3), np.uint8)

    def observed(self) -> Any:
        return np.arange(36, dtype=np.uint8).reshape(4, 3, 3)


class MatrixAction(Point):
    action_space = spaces.Box(-1, 1, (2, 2), np.float32)


class ScalarAction(Point):
    action_space = spaces.Box(-1, 1, (), np.float32)


class IntegerAction(Point):
    action_space = spaces.Box(-1, 1, (2,), np.int32)


class Mixed(Point):
    """A Dict, nested, of a scalar, integers, a matrix and a phase."""

    observation_space = spaces.Dict(
        clock=spaces.Box(0, 1e4, (), np.float32),
        count=spaces.Box(0, 100, (1,), np.int64),
        phase=spaces.Discrete(3),
        robot=spaces.Dict(lidar=spaces.Box(-100, 100, (2, 3), np.float32), position=BOX),
    )

    def observed(self) -> Any:
        lidar = np.outer(self.x, [1, 2, 3]).astype(np.float32)
        return {
            "clock": np.array(self.t, np.float32),
            "count": np.array([self.t]),
            "phase": self.t % 3,
            "robot": {"lidar": lidar, "position": self.x.copy()},
        }


class Phase(Point):
    observation_space = spaces.Dict(phase=spaces.Discrete(3), position=BOX)

    def observed(self) -> Any:
        return {"phase": self.t % 3, "position": self.x.copy()}


class Named(Point):
    """Observes entries called as what a task may report beside the return."""

    observation_space = spaces.Dict(
        position=BOX, progress=spaces.Box(-1e3, 1e3, (1,)), success=spaces.Box(-1e3, 1e3, (1,))
    )

    def observed(self) -> Any:
        number = np.full(1, 50 + self.t, np.float32)
        return {"position": self.x.copy(), "progress": number, "success": number}


class Pair(Point):
    observation_space = spaces.Tuple((BOX, BOX))

    def observed(self) -> Any:
        return self.x.copy(), self.x.copy()


class Mission(Point):
    observation_space = spaces.Dict(state=BOX, mission=spaces.Text(20))

    def observed(self) -> Any:
        return {"state": self.x.copy(), "mission": "go"}


class Diverging(Point):
    """Every third episode turns NaN half way."""

    episodes = 0

    def reset(self, **options: Any):
        type(self).episodes += 1
        self.bad = type(self).episodes % 3 == 0
        return super().reset(**options)

    def observed(self) -> Any:
        return np.full(2, np.nan, np.float32) if self.bad and self.t == 6 else self.x.copy()


class NeverFinite(Point):
    def observed(self) -> Any:
        return np.full(2, np.inf, np.float32)


class ReportsLast(Point):
    """Reports at an episode's last step alone."""

    def info(self) -> dict[str, Any]:
        return super().info() if self.t == STEPS else {}


class Breaks(Point):
    def step(self, action: Any):
        raise RuntimeError("the motor\nis off")


class BreaksLater(Point):
    """After some steps, before it has reported anything."""

    def info(self) -> dict[str, Any]:
        return {}

    def step(self, action: Any):
        if self.t > 3:
            raise ValueError("the motor\nis off")
        return super().step(action)


def register() -> None:
    """Makes each known to Gymnasium by its own name."""
    for kind in [Point, *Point.__subclasses__()]:
        name = f"{kind.__name__}-v0"
        if name not in gymnasium.registry:
            gymnasium.register(name, kind, max_episode_steps=STEPS)
