"""Whether a task can be played and scored, found out in seconds and before any training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import torch
from gymnasium import spaces
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase, GymWrapper, set_exploration_type
from torchrl.envs.utils import ExplorationType
from torchrl.modules.utils import get_primers_from_module

from torchrl_td.config import Config, TaskConfig, limits_returns
from torchrl_td.data import Normalizer, check_matches_env
from torchrl_td.data.choices import choices_of
from torchrl_td.data.statistics import episode_returns
from torchrl_td.data.validation import warn_once
from torchrl_td.envs import make_report_env, opened, planning_transforms
from torchrl_td.envs.flat_spaces import FlatSpaces
from torchrl_td.errors import InputError, first_line
from torchrl_td.experiment.acting import make_actor
from torchrl_td.training.random_state import own_randomness

_STEPS = 2
_FAR = 20.0  # standard deviations of the data that no state of its environment should be off by
_SHORT = 2  # times as long as what is played the data's episodes may be (pen's are twice)
_BEYOND = 0.1  # of the way from the data's mean return to its best: more is past what it shows
# How an environment fails, and which setting may be at fault.
_RESET = ("cannot be reset", "task.reset_options")
_STEP = ("fails at a step", "task.env_kwargs")


def check_data(episodes: TensorDictBase, env: EnvBase, task: TaskConfig, name: str) -> None:
    """Compares the data with the environment that its planner is to act in.

    A warning says where that ends long before the data's episodes do, or counts its choices from
    another number than the data.

    Args:
        episodes: the raw dataset [N].
        env: as made by :func:`~torchrl_td.envs.make_base_env`.
        task: how it is played.
        name: of the source, for messages.

    Raises:
        InputError: if the data does not fit the environment.
    """
    have, want = episodes["observation"].shape[-1], env.observation_spec["observation"].shape[-1]
    discrete = {} if have == want else _discrete(env)
    if discrete and want - have == sum(n - 1 for n in discrete.values()):
        names = ", ".join(f"{entry!r} of {n}" for entry, n in discrete.items())
        raise InputError(
            f"{name}: observation has {have} numbers, the environment's {want}: the data holds a "
            f"Discrete entry ({names}) as a number, the environment gives a vector with a 1 at its "
            f"value; leave it out of task.observation_keys, or store it one-hot in the data"
        )
    _check_first_choice(episodes, env, task, name)
    check_matches_env(episodes, env, name=name)
    usual = int(episode_returns(episodes)[1].median())
    if _SHORT * task.max_episode_steps < usual:
        warn_once(
            f"task.max_episode_steps={task.max_episode_steps}: the episodes of {name} usually have "
            f"{usual} steps; returns of so much shorter ones are no measure beside theirs"
        )


def _check_first_choice(episodes: TensorDictBase, env: Any, task: TaskConfig, name: str) -> None:
    """Choices are counted from 0 in data, but for Minari's, which says from where."""
    wrapper = env.base_env._env if _is_gymnasiums(env) else None
    while isinstance(wrapper, gymnasium.Wrapper) and not isinstance(wrapper, FlatSpaces):
        wrapper = wrapper.env
    first = wrapper.first if isinstance(wrapper, FlatSpaces) else None  # TorchRL adds none itself
    if not first or name.startswith("minari:"):
        return
    counted = f"environment {task.env!r} counts its choices from {first}, {name} from 0"
    have, there = episodes["action"].shape[-1], choices_of(env.action_spec) or 0
    if have > there:
        raise InputError(
            f"{counted}, where its highest is {have - 1} and there are {there}; count them from 0"
        )
    warn_once(f"{counted}: the data's 0 plays {first}")


def _is_gymnasiums(env: Any) -> bool:
    return isinstance(env.base_env, GymWrapper)


def _discrete(env: Any) -> dict[str, int]:
    """Names and sizes of the Discrete entries of an environment's own observation."""
    if not _is_gymnasiums(env):
        return {}
    left, found = {"observation": env.base_env._env.unwrapped.observation_space}, {}
    while left:
        name, space = left.popitem()
        if isinstance(space, spaces.Dict):
            left.update(space.spaces)
        elif isinstance(space, spaces.Discrete):
            found[name] = int(space.n)
    return found


def check_playable(model: Any, config: Config, env: EnvBase, dataset: Mapping[str, Any]) -> None:
    """Resets the task, plans, steps twice and reads every entry that an evaluation will read.

    Random states and the number of threads are left as they were. A warning says where the return
    asked for is one that the data cannot show how to bring, or the first state far from the data's.

    Args:
        model: trained or not.
        config: the run's settings.
        env: as made by :func:`~torchrl_td.envs.make_base_env`; closed here.
        dataset: the returns of its episodes, as ``results.json`` has them.

    Raises:
        InputError: at the first thing that an evaluation would fail at.
    """
    settings, task = config.evaluation, config.task
    mode = ExplorationType.DETERMINISTIC if settings.deterministic else ExplorationType.RANDOM
    training, plain = model.training, copy.deepcopy(config)
    plain.evaluation.compile = "none"  # to compile takes longer than the two steps
    actor = make_actor(model, plain, env.action_spec)
    _check_limit(task)
    with opened(env), own_randomness(settings.seed), torch.no_grad(), set_exploration_type(mode):
        env = env.append_transform(planning_transforms(settings.target_return))
        primer = get_primers_from_module(actor, warn=False)
        env = env if primer is None else env.append_transform(primer)
        step = _tried(env.reset, task, *_RESET)
        _check_near(step["observation"], actor.normalizer, task)
        for _ in range(_STEPS):
            step = _tried(env.step, task, *_STEP, actor(step))
            if step["next", "done"].any():
                break
            step = env.step_mdp(step)
        _check_report(task, settings.seed)
    if "target_return" in actor.in_keys and not config.value.enabled:  # else scores are asked for
        _check_asked(config, dataset["return_mean"], dataset["return_best"])
    model.train(training)


def _check_near(observation: Tensor, normalizer: Normalizer, task: TaskConfig) -> None:
    """Warns of a first state [O] that is far from all that the data observed."""
    off = normalizer.normalize(observation).abs()
    if float(off.max()) > _FAR:
        entry = int(off.argmax())
        loc, scale = float(normalizer.loc[entry]), float(normalizer.scale[entry])
        warn_once(
            f"environment {task.env!r} starts far from the data: entry {entry} of its observation "
            f"is {float(observation[entry]):.4g}, the data's {loc:.4g} ± {scale:.2g}; is it the "
            f"environment that was recorded, and in the same units?"
        )


def _check_limit(task: TaskConfig) -> None:
    """Warns of episodes longer than the environment's own, as where a task file gives no limit."""
    spec = gymnasium.registry.get(task.env or "")
    limit = None if spec is None else spec.max_episode_steps
    if limit is not None and task.max_episode_steps > limit:
        warn_once(
            f"task.max_episode_steps={task.max_episode_steps}: the episodes of {task.env} are of "
            f"{limit} steps as it is registered; returns of longer ones are no measure of it"
        )


def _check_asked(config: Config, mean: float, best: float) -> None:
    """Warns of a target return that is less than the data's usual, or beyond its best."""
    asked, is_asked = config.evaluation.target_return, "the return that plans are asked for"
    if asked < mean:
        warn_once(
            f"evaluation.target_return={asked:g}, {is_asked}, is below the mean of the data's "
            f"episodes, {mean:.4g}; the best brought {best:.4g}: set task.target_return"
        )
    elif asked > best + _BEYOND * (best - mean) and not limits_returns(config):
        warn_once(
            f"evaluation.target_return={asked:g}, {is_asked}, is more than any of the data's "
            f"episodes brought, {best:.4g}; their mean is {mean:.4g}"
        )


def _check_report(task: TaskConfig, seed: int) -> None:
    """Plays at random until what the task names is reported, at an episode's end at the latest."""
    if task.success_key is None and task.score_key is None:
        return
    env = make_report_env(task, seed)
    try:
        _tried(env.reset, task, *_RESET)
        env.action_space.seed(seed)
        over = False
        while env.unreported and not over:
            over = any(_tried(env.step, task, *_STEP, env.action_space.sample())[2:4])
    finally:
        env.close()


def _tried(
    function: Callable[..., Any], task: TaskConfig, says: str, key: str, *arguments: Any
) -> Any:
    try:
        return function(*arguments)
    except InputError:
        raise
    except Exception as error:  # an environment's, of any kind
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(
            f"environment {task.env!r} {says} ({reason}); check {key}, or the environment itself"
        ) from error
