"""Gymnasium wrappers: how an episode starts, and what is reported beside the return."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils import RecordConstructorArgs
from torchrl.data import Binary, Composite, Unbounded

from torchrl_td.errors import InputError


class EpisodeStart(gymnasium.Wrapper):
    """Fixes how episodes start.

    Args:
        env: the environment.
        options: handed to every reset, such as the goal cell a task is scored on.
        seed: of the first episode; those that follow go on from it. ``None`` leaves seeds to
            the caller.

    Examples:
        >>> import gymnasium
        >>> from torchrl_td.envs.gym_wrappers import EpisodeStart
        >>> env = EpisodeStart(gymnasium.make("Pendulum-v1"), seed=3)
        >>> bool((env.reset()[0] == gymnasium.make("Pendulum-v1").reset(seed=3)[0]).all())
        True
    """

    def __init__(
        self, env: gymnasium.Env, options: dict[str, Any] | None = None, seed: int | None = None
    ) -> None:
        super().__init__(env)
        self._options = dict(options or {})
        self._seed = seed

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        # The seed stays in force until the first step: building an environment may reset it too.
        if seed is None:
            seed = self._seed
        elif self._seed is not None:
            self._seed = seed  # the caller's takes its place
        return self.env.reset(seed=seed, options={**self._options, **(options or {})} or None)

    def step(self, action: Any):
        self._seed = None
        return self.env.step(action)


class ExactGoal(gymnasium.Wrapper, RecordConstructorArgs):
    """Puts a maze's goal at the middle of its cell, where gymnasium-robotics shifts it at random.

    Data that does not show the goal can only be paid for one place; a goal up to 0.25 m beside it
    in each direction would be another task, and one that nothing observed could tell.

    Args:
        env: a maze of gymnasium-robotics, reset with the option ``goal_cell``.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        RecordConstructorArgs.__init__(self)  # recordings name it among the environment's wrappers
        super().__init__(env)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        observation, info = self.env.reset(seed=seed, options=options)
        base: Any = self.env.unwrapped
        cell = (options or {}).get("goal_cell")
        if cell is None or not hasattr(base, "maze"):
            raise InputError(
                "task.exact_goal=true needs a maze and its task.reset_options.goal_cell"
            )
        base.goal = base.maze.cell_rowcol_to_xy(np.array(cell))
        base.update_target_site_pos()  # of the picture
        return {**observation, "desired_goal": base.goal.copy()}, info


class StepReport(gymnasium.Wrapper):
    """Puts into every step's info what is counted beside the return, as arrays of one entry.

    ``success`` is True where the entry ``success_key`` is, or, if that is a list of sub-tasks
    completed, where all of them are. ``progress`` is the number in the entry ``score_key``, of a
    list its length. Where a step says nothing of them, they are False and 0: some environments
    report at an episode's last step alone.

    Args:
        env: the environment.
        success_key: name in the info, or None.
        score_key: name in the info, or None.
        sub_tasks: how many there are to complete.

    Raises:
        InputError: at an episode's end, if no step's info had such an entry so far.

    Examples:
        >>> import gymnasium
        >>> from torchrl_td.envs.gym_wrappers import StepReport
        >>> env = StepReport(gymnasium.make("Pendulum-v1"), "is_success", "distance")
        >>> sorted(env.entries.keys())
        ['progress', 'success']
    """

    def __init__(
        self,
        env: gymnasium.Env,
        success_key: str | None,
        score_key: str | None = None,
        sub_tasks: int = 1,
    ) -> None:
        super().__init__(env)
        self._success_key, self._score_key, self._sub_tasks = success_key, score_key, sub_tasks
        self.unreported = {key for key in (success_key, score_key) if key is not None}

    @property
    def entries(self) -> Composite:
        """Specs of the entries written."""
        entries = Composite()
        if self._success_key is not None:
            entries["success"] = Binary(shape=(1,), dtype=torch.bool)
        if self._score_key is not None:
            entries["progress"] = Unbounded(shape=(1,), dtype=torch.float32)
        return entries

    def reset(self, **kwargs: Any):
        observation, info = self.env.reset(**kwargs)
        return observation, self._report(info)

    def step(self, action: Any):
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.unreported -= info.keys()
        if (terminated or truncated) and self.unreported:
            raise InputError(
                f"environment {self.spec.id if self.spec else self.env} reports no "
                f"{min(self.unreported)!r}; check task.success_key and task.score_key, there are: "
                f"{', '.join(sorted(info)) or 'none'}"
            )
        return observation, reward, terminated, truncated, self._report(info)

    def _report(self, info: dict[str, Any]) -> dict[str, Any]:
        report: dict[str, Any] = {}
        if self._success_key is not None:
            value = info.get(self._success_key, False)
            if isinstance(value, list):
                value = len(value) >= self._sub_tasks
            report["success"] = np.array([bool(value)])
        if self._score_key is not None:
            value = info.get(self._score_key, 0)
            number = len(value) if isinstance(value, list) else _number(value, self._score_key)
            report["progress"] = np.array([number], dtype=np.float32)
        return report


def _number(value: Any, key: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        kind = type(value).__name__
        raise InputError(f"task.score_key={key} names a {kind}, which is no number") from None
