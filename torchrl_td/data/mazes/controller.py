"""The scripted controller that walks PointMaze for the default data."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Cell = tuple[int, int]

WALL = 1
"""What stands for a wall in a gymnasium-robotics maze map."""


def free_cells(maze_map: Sequence[Sequence[object]]) -> list[Cell]:
    """Cells (row, column) of a maze map that are not walls, in reading order.

    >>> free_cells([[1, 0], [0, 1]])
    [(0, 1), (1, 0)]
    """
    return [(i, j) for i, row in enumerate(maze_map) for j, cell in enumerate(row) if cell != WALL]


def shortest_path(maze_map: Sequence[Sequence[object]], start: Cell, goal: Cell) -> list[Cell]:
    """Shortest path over a maze's cells, by breadth-first search.

    Args:
        maze_map: rows of cells, 1 is a wall.
        start: (row, column) of the first cell.
        goal: (row, column) of the last cell.

    Returns:
        The cells from start to goal, both included; neighbours share an edge.

    Raises:
        ValueError: no path joins the two.

    >>> shortest_path([[0, 1, 0], [0, 0, 0]], (0, 0), (0, 2))
    [(0, 0), (1, 0), (1, 1), (1, 2), (0, 2)]
    """
    open_cells = set(free_cells(maze_map))
    came_from: dict[Cell, Cell] = {start: start}
    queue = deque([start])
    while queue and goal not in came_from:
        i, j = queue.popleft()
        for cell in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
            if cell in open_cells and cell not in came_from:
                came_from[cell] = (i, j)
                queue.append(cell)
    if goal not in came_from:
        raise ValueError(f"no path from cell {start} to cell {goal}")
    path = [goal]
    while path[-1] != start:
        path.append(came_from[path[-1]])
    return path[::-1]


@dataclass(frozen=True)
class Skill:
    """What a skill in [0, 1] makes of the controller; lengths in metres, times in steps."""

    speed: float
    """Largest speed asked for, m/s."""
    noise: float
    """Standard deviation of the (slowly varying) noise on the action."""
    pause_rate: float
    """Chance a step that a pause begins."""
    pause_length: float
    """Mean length of a pause, in steps."""
    detour: float
    """Chance that the walk leads by a random cell first."""

    @classmethod
    def from_level(cls, level: float) -> Skill:
        """The settings of skill ``level``: 0 slow and unsteady, 1 fast and straight."""
        lack = 1.0 - level
        return cls(
            speed=1.5 + 3.7 * level**1.5,
            noise=0.05 + 0.3 * lack,
            pause_rate=0.012 * lack,
            pause_length=5.0 + 10.0 * lack,
            detour=0.6 * lack,
        )


class Walker:
    """Follows waypoints with a PD controller on the point mass.

    Args:
        waypoints: (x, y) in metres, the goal last.
        skill: speed, noise, pauses.
        rng: where noise and pauses are drawn from.
    """

    reach = 0.6
    """A waypoint counts as passed within this distance, m."""
    gain = 10.0
    """Asked speed per metre of distance, 1/s."""
    force = 1.0
    """Action per m/s of missing speed."""
    memory = 0.8
    """How much of the action noise stays from one step to the next."""

    def __init__(
        self, waypoints: Sequence[tuple[float, float]], skill: Skill, rng: np.random.Generator
    ):
        self._waypoints = [(float(x), float(y)) for x, y in waypoints]
        self._skill = skill
        self._rng = rng
        self._at = 0
        self._pause = 0
        self._noise = (0.0, 0.0)

    def act(self, x: float, y: float, vx: float, vy: float) -> tuple[float, float]:
        """Action in [-1, 1]² for position (x, y), m, and speed (vx, vy), m/s."""
        skill, rng = self._skill, self._rng
        target = self._waypoints[self._at]
        dx, dy = target[0] - x, target[1] - y
        last = self._at == len(self._waypoints) - 1
        if not last and math.hypot(dx, dy) < self.reach:
            self._at += 1
        if self._pause > 0:
            self._pause -= 1
            dx = dy = 0.0  # brake and stand
        elif rng.random() < skill.pause_rate:
            self._pause = int(rng.exponential(skill.pause_length))
        # On the way waypoints are passed at full speed; only the goal is approached slowly.
        distance = math.hypot(dx, dy) + 1e-8
        speed = min(skill.speed, self.gain * distance) if last else skill.speed * (distance > 1e-6)
        ax = self.force * (speed * dx / distance - vx)
        ay = self.force * (speed * dy / distance - vy)
        fresh = skill.noise * math.sqrt(1 - self.memory**2)
        nx = self.memory * self._noise[0] + fresh * rng.standard_normal()
        ny = self.memory * self._noise[1] + fresh * rng.standard_normal()
        self._noise = (nx, ny)
        return min(max(ax + nx, -1.0), 1.0), min(max(ay + ny, -1.0), 1.0)
