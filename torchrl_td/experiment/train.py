"""One call from data of any form to an actor: :func:`train`."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from torchrl.envs import EnvBase

from torchrl_td.checkpoint import action_spec, find_checkpoint, load_model
from torchrl_td.config import CONFIGS, Config, check_config, check_read, setting_of, word_by_word
from torchrl_td.data import load_episodes
from torchrl_td.data.load import InMemory
from torchrl_td.data.source_info import SourceInfo, source_info
from torchrl_td.data.task_file import write_task
from torchrl_td.envs import free_name, register_factory
from torchrl_td.envs.own import OF_FUNCTIONS
from torchrl_td.errors import InputError
from torchrl_td.experiment.acting import make_actor
from torchrl_td.experiment.cli import explain
from torchrl_td.experiment.run import IN_MEMORY, run

Data: TypeAlias = str | InMemory
Environment: TypeAlias = str | Callable[[], Any]

# Settings that stand among the arguments, and their names there.
_ARGUMENTS = {"output_dir": "output_dir", "dataset.source": "data", "task.env": "env"}


@dataclass
class Trained:
    """What :func:`train` made.

    Attributes:
        actor: the TorchRL policy, a :class:`~torchrl_td.TDPlannerActor` unless another
            ``algorithm`` was asked for.
        results: what stands in the run's ``results.json``: scores, or that nothing was played.
        folder: the run's, with its checkpoints, metrics and pictures.
    """

    actor: Any
    results: dict[str, Any]
    folder: Path


def train(
    data: Data,
    env: Environment | None = None,
    *,
    observation_keys: Sequence[str] | None = None,
    settings: Sequence[str] = (),
    output_dir: str | Path = "outputs/own",
) -> Trained:
    """Trains a planner on data and plays it, if there is an environment.

    What is not set is suggested by the data, as ``td-data describe --write-task`` writes it.

    Args:
        data: anything that :func:`torchrl_td.load_episodes` takes.
        env: a Gymnasium id, a function that makes a Gymnasium or TorchRL environment, or None to
            play nothing, whatever the settings say.
        observation_keys: entries of a Dict observation to join, in this order, nested ones with a
            slash; None for the documented order.
        settings: words as on the command line, such as ``"training.steps=2000"`` or
            ``"preset=small"``.
        output_dir: the run's folder, which must not hold a run yet, unless ``"resume=auto"`` among
            the settings continues the one that is there.

    Raises:
        InputError: for anything the user can mend, in one line.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_td import train
        >>> state = torch.rand(200, 10, 3)
        >>> walks = [
        ...     {"observations": s, "actions": torch.rand(10, 2), "rewards": s[:, 0]} for s in state
        ... ]
        >>> few = ["training.steps=2", "progress=false", "device=cpu"]
        >>> trained = train(walks, settings=few, output_dir=tempfile.mkdtemp())
        >>> trained.results["nothing_played"]
        'evaluation.episodes=0'
        >>> trained.actor.spec["action"].shape
        torch.Size([2])
    """
    if isinstance(settings, (str, Mapping)):
        raise InputError(
            f"settings={settings!r} is a {type(settings).__name__}; give a list of words, as in "
            f"['training.steps=2000']"
        )
    _check_words(settings, env)
    config = _settings(data, env, observation_keys, list(settings), str(output_dir))
    results = run(config, None, None if isinstance(data, str) else data)
    folder = Path(config.output_dir)
    model, about = load_model(find_checkpoint(folder))
    actor = make_actor(model, config, action_spec(about))
    return Trained(actor, results, folder)


def _check_words(settings: Sequence[str], env: Environment | None) -> None:
    """Refuses words whose place is another argument."""
    for word in word_by_word(settings):
        key = setting_of(word)
        if key in _ARGUMENTS:
            raise InputError(
                f"{key}= is an argument of its own, {_ARGUMENTS[key]}, and none of settings"
            )
        if key == "resume" and word != "resume=auto":
            raise InputError(
                f"{word}: give output_dir and resume=auto, which goes on in that folder"
            )
        if key == "evaluation.baseline" and not word.endswith("=null"):
            raise InputError(f"{word}: train trains one algorithm; call it again for the other")
        if f"{key}.".startswith("task.env_kwargs.") and callable(env):
            raise InputError(
                f"{word}: env is a function, which is called without arguments; give it them by "
                f"functools.partial"
            )


def _settings(
    data: Data,
    env: Environment | None,
    observation_keys: Sequence[str] | None,
    words: list[str],
    folder: str,
) -> Config:
    """The settings that the data suggests, with the caller's words over them."""
    name = _name(env)
    episodes = load_episodes(data, observation_keys=observation_keys)
    info, source = SourceInfo(), IN_MEMORY
    if isinstance(data, str):
        info, source = source_info(data), data
    spec = gymnasium.registry.get(name or "")
    limit = info.max_episode_steps if spec is None else spec.max_episode_steps
    info = dataclasses.replace(info, environment=None, max_episode_steps=limit)
    with tempfile.TemporaryDirectory() as temporary:
        write_task(Path(temporary) / "own.yaml", source, episodes, info, observation_keys)
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            unplayed = [] if name else ["evaluation.episodes=0"]
            search = f"hydra.searchpath=[file://{temporary}]"
            try:
                composed = compose("td_offline", overrides=[search, "task=own", *words, *unplayed])
            except (HydraException, OmegaConfBaseException) as error:
                raise InputError(explain(str(error), CONFIGS)) from error
    composed.output_dir = folder
    composed.dataset.source, composed.task.env = source, name  # whatever a task among words says
    config = check_config(composed)
    check_read(config, words)
    return config


def _name(env: Environment | None) -> str | None:
    """What settings call an environment."""
    if env is None or isinstance(env, str):
        return env
    if not callable(env) or isinstance(env, EnvBase):
        raise InputError(
            f"env is a {type(env).__name__}; give a Gymnasium id or a function that makes the "
            f"environment, of which evaluation makes several"
        )
    name = f"{OF_FUNCTIONS}{getattr(env, '__name__', type(env).__name__)}"
    return register_factory(free_name(name, env), env)
