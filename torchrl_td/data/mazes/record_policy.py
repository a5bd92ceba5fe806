"""Record a local Minari dataset from any policy in any Gymnasium environment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from minari.dataset.minari_dataset import parse_dataset_id
from tqdm import tqdm

from torchrl_td.data.images import check_no_image, is_image
from torchrl_td.data.mazes.record import check_recording, check_seed, write_dataset
from torchrl_td.data.robotics import register_robotics
from torchrl_td.errors import InputError

Policy = Callable[[Any, float, bool], np.ndarray]
"""Observation, the reward just received, whether the episode begins -> action [A]."""


def make_environment(env_id: str, **kwargs: Any) -> gymnasium.Env:
    """``gymnasium.make`` with gymnasium-robotics' environments known, where installed.

    Raises:
        InputError: the environment cannot be built.
    """
    with contextlib.suppress(ImportError):
        register_robotics()
    try:
        return gymnasium.make(env_id, **kwargs)
    except Exception as error:  # packages of environments raise what they like
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"cannot build environment {env_id!r}: {reason}") from error


def random_policy(env: gymnasium.Env, seed: int = 0) -> Policy:
    """Actions drawn evenly from the environment's action space.

    Raises:
        InputError: the seed is negative.
    """
    check_seed(seed)
    env.action_space.seed(seed)
    return lambda observation, reward, first: env.action_space.sample()


def record_dataset(
    env: gymnasium.Env,
    dataset_id: str,
    policy: Policy,
    steps: int,
    *,
    seed: int = 0,
    name: str = "policy",
    references: tuple[float, float] | None = None,
    overwrite: bool = False,
    progress: bool = True,
    reset_options: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """Play ``policy`` in ``env`` and write the episodes as a local Minari dataset.

    The dataset appears whole or not at all; observations stay as the environment
    gives them.

    Args:
        env: a Gymnasium environment with a step limit or another end.
        dataset_id: what to call it, ``<namespace>/<name>-v<number>``.
        policy: called with an observation, the reward just received (0 at the start)
            and whether the episode begins; returns the action [A].
        steps: at least this many transitions, in whole episodes; one that does not end
            is cut off after as many.
        seed: of the draw of the resets' seeds.
        name: what the dataset says it was recorded with.
        references: returns that score 0 and 100, if the task has any.
        overwrite: replace a dataset of that id.
        progress: show a progress bar.
        reset_options: handed to every reset, such as a maze's goal.
        provenance: what it was recorded with, JSON-compatible; the dataset's metadata keep it.

    Returns:
        ``dataset_id``.

    Raises:
        InputError: bad id, seed or number of steps, the dataset exists, the action space is
            neither a Box of floats nor Discrete, the observation an image, or the policy's
            actions are not finite or of the wrong size.
    """
    _check_id(dataset_id)
    if not isinstance(env.action_space, gymnasium.spaces.Box | gymnasium.spaces.Discrete):
        raise InputError(
            f"{dataset_id}: the environment's actions are {type(env.action_space).__name__}; "
            f"recorded are a Box of numbers or a Discrete choice"
        )
    kind = env.action_space.dtype
    if isinstance(env.action_space, gymnasium.spaces.Box) and not np.issubdtype(kind, np.floating):
        raise InputError(
            f"{dataset_id}: the environment's actions are a Box of {kind}, which nothing here "
            f"learns; give it one of float32, by a wrapper"
        )
    _check_space(env.observation_space, dataset_id, "observation")
    entries = gymnasium.spaces.Dict(o=env.observation_space)
    if all(is_image(space.shape) for space in _leaves(entries)):  # others may be learnt from alone
        check_no_image(_leaves(entries)[0].shape or (), f"{dataset_id}: observation")
    check_recording(dataset_id, steps, overwrite, seed)
    # Not seed, seed + 1, ...: among many episodes those would be the starts that evaluation plays.
    starts = np.random.default_rng(seed)
    episodes: list[dict[str, Any]] = []
    recorded = 0
    with tqdm(
        total=steps, desc=f"recording {dataset_id}", unit="step", disable=None if progress else True
    ) as bar:
        while recorded < steps:
            options = dict(reset_options or {}) or None
            start = {"seed": int(starts.integers(2**31)), "options": options}
            episodes.append(_play(env, policy, start, limit=steps))
            recorded += len(episodes[-1]["rewards"])
            bar.update(len(episodes[-1]["rewards"]))
    write_dataset(
        dataset_id,
        episodes,
        env,
        algorithm_name=name,
        description=f"Recorded with {name}, the seeds of its resets drawn by {seed}.",
        references=references,
        provenance=provenance,
    )
    return dataset_id


def _check_id(dataset_id: str) -> None:
    """Refuse an id that Minari would refuse when all is recorded."""
    try:
        named = parse_dataset_id(dataset_id)[0] is not None
    except (ValueError, TypeError):  # a missing version is a TypeError
        named = False
    if not named:
        raise InputError(
            f"dataset id {dataset_id!r}: it must look like <namespace>/<name>-v<number>, "
            "as in my/hopper/random-v0, the namespace of two characters or more"
        )


def _leaves(space: gymnasium.Space) -> list[gymnasium.Space]:
    if not isinstance(space, gymnasium.spaces.Dict):
        return [space]
    return [leaf for entry in space.values() for leaf in _leaves(entry)]


def _check_space(space: gymnasium.Space, dataset_id: str, name: str) -> None:
    """Refuse observations that make no vector, before they are recorded."""
    if isinstance(space, gymnasium.spaces.Dict):
        for key, entry in space.items():
            _check_space(entry, dataset_id, f"{name}/{key}")
    elif not space.shape and not isinstance(
        space, (gymnasium.spaces.Box, gymnasium.spaces.Discrete)
    ):
        raise InputError(
            f"{dataset_id}: {name} is a {type(space).__name__}, which makes no vector; record with "
            "gymnasium's FlattenObservation, or leave it out (FilterObservation)"
        )


def _play(env: gymnasium.Env, policy: Policy, start: dict[str, Any], limit: int) -> dict[str, Any]:
    """One episode, as the arguments of Minari's ``EpisodeBuffer``; cut off after ``limit``."""
    observation, _ = env.reset(**start)
    observations = [observation]
    actions: list[np.ndarray] = []
    rewards, terminations, truncations = [], [], []
    reward, done = 0.0, False
    while not done:
        action = _checked(policy(observation, reward, not actions), env.action_space)
        choice = isinstance(env.action_space, gymnasium.spaces.Discrete)
        handed = int(action) if choice else action  # some environments look a choice up by it
        observation, paid, terminated, truncated, _ = env.step(handed)
        reward = float(paid)
        observations.append(observation)
        actions.append(action)
        rewards.append(reward)
        # Some environments never end of themselves: no episode is longer than the recording.
        truncated = truncated or (len(actions) >= limit and not terminated)
        done = terminated or truncated
        terminations.append(bool(terminated))
        truncations.append(bool(truncated))
    return {
        **start,
        "observations": _stacked(observations),
        "actions": np.stack(actions),
        "rewards": np.array(rewards),
        "terminations": np.array(terminations),
        "truncations": np.array(truncations),
    }


def _checked(action: Any, space: Any) -> np.ndarray:
    """The action as the environment wants it; actions are clipped to its bounds."""
    array = np.asarray(action, dtype=space.dtype)
    if isinstance(space, gymnasium.spaces.Discrete) and not space.contains(array):
        raise InputError(f"the policy's action {action} is none of the environment's {space}")
    if array.shape != space.shape:
        raise InputError(
            f"the policy's action has shape {array.shape}, the environment wants {space.shape}"
        )
    if not np.isfinite(array).all():
        raise InputError("the policy's action is NaN or Inf; check what it was trained on")
    return np.clip(array, space.low, space.high) if hasattr(space, "low") else array


def _stacked(observations: list[Any]) -> Any:
    """Observations of a whole episode in one array, or one array an entry of a Dict."""
    if isinstance(observations[0], Mapping):
        return {
            key: _stacked([observation[key] for observation in observations])
            for key in sorted(observations[0])
        }
    return np.stack(observations)
