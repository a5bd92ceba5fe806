"""Episodes told a goal that is played in place of their own, and paid for reaching it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from torchrl_td.config import TaskConfig
from torchrl_td.data.keys import named_keys, observation_keys
from torchrl_td.data.transitions import returns_to_go
from torchrl_td.data.validation import warn_once
from torchrl_td.envs.make import make_gym_env
from torchrl_td.errors import InputError

_ACHIEVED, _DESIRED = "achieved_goal", "desired_goal"
_CHECKED = 10_000  # steps whose rewards are computed anew
_ROUNDING = 1e-3  # share of them that may differ: float32's places lie beside a goal's edge
_OFF = "episodes cannot be told a goal that is played (value.played_goal_share)"


def with_played_goals(episodes: TensorDictBase, task: TaskConfig, seed: int) -> TensorDictBase:
    """Adds what :func:`tell_played_goals` makes of the states [N, O] and rewards [N, 1].

    Args:
        episodes: as there.
        task: as there.
        seed: of the goals that are drawn.

    Returns:
        A copy with ``("played", "observation")`` and ``("played", "reward")``; the episodes as they
        are, after a warning, where they cannot be told another goal.

    Examples:
        >>> from torchrl_td.config import TaskConfig
        >>> from torchrl_td.data import load_episodes
        >>> from torchrl_td.envs import with_played_goals
        >>> walk = dict(observations=torch.rand(2, 3), actions=torch.ones(2, 1), rewards=[0, 0])
        >>> episodes, no_goals = load_episodes([walk]), TaskConfig(env="Pendulum-v1")
        >>> with_played_goals(episodes, no_goals, seed=0) is episodes
        True
    """
    try:
        told = tell_played_goals(episodes, task, seed)
    except InputError as error:
        warn_once(f"{error}; the value learns from the data's own goals alone")
        return episodes
    played = {"observation": told["observation"], "reward": told["next", "reward"]}
    return episodes.copy().set("played", TensorDict(played, batch_size=episodes.batch_size))


def tell_played_goals(episodes: TensorDictBase, task: TaskConfig, seed: int) -> TensorDictBase:
    """Tells every episode a goal of the task's own, as in hindsight relabelling.

    Data of many goals hold few episodes of the one that is played. What they say of the way there
    does not depend on the goal that was meant, so they are told one that the environment's reset
    gives, and its ``compute_reward`` pays what they would have been paid. The environment must go
    on where a goal is reached.

    Args:
        episodes: raw dataset [N] from :func:`~torchrl_td.data.load_episodes`.
        task: the environment, a Gymnasium ``GoalEnv`` whose goal is among what is observed.
        seed: of the goals that are drawn.

    Returns:
        A copy with other ``observation``, ``reward`` and ``returns_to_go``; none terminates.

    Raises:
        InputError: if the environment shows no goal or pays none by ``compute_reward``, what is
            achieved is not observed, the data's observations are of another width, or it would pay
            their own goals otherwise.

    Examples:
        >>> import torch
        >>> from torchrl_td.config import TaskConfig
        >>> from torchrl_td.data import load_episodes
        >>> from torchrl_td.envs import tell_played_goals
        >>> place = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> walk = torch.cat([place, torch.zeros(3, 2), place[:1].expand(3, 2)], -1)
        >>> walk = {"observations": walk, "actions": torch.ones(3, 2), "rewards": [0.0, 0.0, 0.0]}
        >>> task = TaskConfig(
        ...     env="PointMaze_UMaze-v3", env_kwargs={"continuing_task": True},
        ...     reset_options={"goal_cell": [3, 1]},
        ... )
        >>> told = tell_played_goals(load_episodes([walk]), task, seed=0)
        >>> told["observation"][:, 4:].round()
        tensor([[-1., -1.],
                [-1., -1.],
                [-1., -1.]])
        >>> told["next", "reward"].squeeze(-1)  # where each step led
        tensor([0., 1., 1.])
    """
    number = episodes["episode"].reshape(-1)  # [N]
    env = make_gym_env(task)
    try:
        # Not seed, seed + 1, ...: among thousands of those are the starts that evaluation plays.
        starts = np.random.default_rng(seed).integers(2**31, size=int(number.max()) + 1)
        resets = [env.reset(seed=int(start))[0] for start in starts]
        places, shown = _columns(task, resets, episodes["observation"].shape[-1])
        _check_rewards(env, episodes, places, shown)
        told = episodes.copy()
        goals = torch.from_numpy(np.stack([reset[_DESIRED] for reset in resets])).float()  # [E, G]
        for key in ("observation", ("next", "observation")):
            told[key] = told[key].clone()
            told[key][:, shown] = goals[number]
        reward = _pay(env, told["next", "observation"], places, shown)  # [N, 1]
    finally:
        env.close()
    to_go = returns_to_go(reward[:, 0], told["next", "done"][:, 0])
    told["returns_to_go"] = to_go.float().unsqueeze(-1)
    told["next", "returns_to_go"] = (to_go - reward[:, 0].double()).float().unsqueeze(-1)
    told["next", "reward"] = reward
    # That an episode ended at its own goal is no end of the way to another.
    ended = told["next", "terminated"]
    told["next", "terminated"] = torch.zeros_like(ended)
    told["next", "truncated"] = told["next", "truncated"] | ended
    return told


def _columns(task: TaskConfig, resets: Sequence[Any], width: int) -> tuple[Tensor, Tensor]:
    """In the data's observations [width]: where what is achieved is, and the goal, [G] each."""
    first = resets[0]
    shown = observation_keys(first) if isinstance(first, Mapping) else []
    keys = named_keys(task.observation_keys) or shown
    if _DESIRED not in keys or _ACHIEVED not in first:
        raise InputError(f"{_OFF}: environment {task.env!r} shows no {_DESIRED} to be told")
    sizes = [np.size(first[key]) for key in keys]
    if sum(sizes) != width:
        raise InputError(
            f"{_OFF}: the data's observations are of {width} numbers, those of environment "
            f"{task.env!r} of {sum(sizes)}"
        )
    columns = dict(zip(keys, torch.arange(sum(sizes)).split(sizes), strict=True))
    if _ACHIEVED in columns:
        return columns[_ACHIEVED], columns[_DESIRED]
    states = np.stack([np.concatenate([np.ravel(reset[key]) for key in keys]) for reset in resets])
    achieved = np.stack([np.ravel(reset[_ACHIEVED]) for reset in resets])  # [E, G]
    same = (states[:, None, :] == achieved[:, :, None]).all(0)  # [G, O]
    same[:, columns[_DESIRED]] = False
    if not same.any(-1).all():
        raise InputError(
            f"{_OFF}: what is achieved in environment {task.env!r} is not among its observations; "
            f"name it among task.observation_keys"
        )
    return torch.from_numpy(same.argmax(-1)), columns[_DESIRED]


def _pay(env: gymnasium.Env, states: Tensor, places: Tensor, shown: Tensor) -> Tensor:
    """What the environment pays [n, 1] for arriving in states [n, O] with the goals shown there."""
    achieved, goal = states[:, places].numpy(), states[:, shown].numpy()
    try:
        reward = env.unwrapped.compute_reward(achieved, goal, {})  # type: ignore[attr-defined]
    except (AttributeError, NotImplementedError):
        raise InputError(f"{_OFF}: the environment has no compute_reward to pay it by") from None
    return torch.as_tensor(reward, dtype=torch.float32).reshape(-1, 1)


def _check_rewards(
    env: gymnasium.Env, episodes: TensorDictBase, places: Tensor, shown: Tensor
) -> None:
    """That the environment pays for the data's own goals what the data say."""
    some = episodes[:: max(1, len(episodes) // _CHECKED)]
    paid = _pay(env, some["next", "observation"], places, shown)
    wrong = float((paid != some["next", "reward"]).float().mean())
    if wrong > _ROUNDING:
        raise InputError(
            f"{_OFF}: {wrong:.1%} of the data's rewards are not what the environment pays for "
            f"their own goals"
        )
