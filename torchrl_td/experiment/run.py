"""A whole run: data, training with checkpoints, evaluation, results and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.data import Bounded, OneHot, TensorSpec

from torchrl_td.checkpoint import Start, find_start
from torchrl_td.config import Config, check_read
from torchrl_td.data import load_with_identity
from torchrl_td.data.choices import are_choices, choices_of, widened
from torchrl_td.data.load import InMemory
from torchrl_td.data.source_info import source_info
from torchrl_td.data.sources.d4rl import step_limit
from torchrl_td.data.statistics import extremes, numbered_returns
from torchrl_td.data.validation import warn_once
from torchrl_td.envs import make_base_env, opened
from torchrl_td.errors import InputError, first_line
from torchrl_td.experiment.beside import baseline_beside, check_beside
from torchrl_td.experiment.evaluate import normalized_score
from torchrl_td.experiment.experiment import Session
from torchrl_td.experiment.preflight import check_data, check_playable
from torchrl_td.experiment.rendering import check_video
from torchrl_td.experiment.resume import folder_of, resumed
from torchrl_td.experiment.run_folder import record_start, run_folder
from torchrl_td.experiment.signals import stop_signals
from torchrl_td.training.distributed import World, joined, local_device

IN_MEMORY = "python"
"""What settings call data that is handed over in Python."""


def run(
    config: Config,
    overrides: Sequence[str] | None = None,
    data: InMemory | None = None,
    configs: Sequence[Path] = (),
) -> dict[str, Any]:
    """Trains on offline data and evaluates: ``examples/td_offline.py`` but for the baseline beside.

    Args:
        config: checked settings; ``config.resume`` continues an interrupted run.
        overrides: the ``key=value`` words among them that the user gave. A resumed run has its
            own settings, and refuses words that would change them.
        data: episodes to train on in place of ``dataset.source``.
        configs: where a baseline that is to be trained beside has its YAML; whether it can be is
            tried before this run trains.

    Returns:
        What was written to ``results.json``. Without ``results`` if stopped early, and with
        ``stopped_by``, the signal's number, if a signal did it. With ``evaluation.episodes=0``
        nothing is played: ``nothing_played`` says so, and ``validation`` holds the losses on
        held-out episodes.

    Raises:
        InputError: for anything the user can mend, before hours are spent.
    """
    resuming = config.resume is not None
    stored = config.resume not in (None, "auto")  # the settings are the run's, not these
    if not stored:
        check_read(config, overrides or ())
    folder = folder_of(config, overrides)
    device = pick_device(config.device)
    with joined(device) as world:
        owned = run_folder(folder, resuming) if world.first else nullcontext(folder.expanduser())
        with owned as folder:
            checkpoint = None
            if resuming:
                config, checkpoint = resumed(config, folder, overrides, world)
            if stored:
                check_read(config, overrides or ())
            config.output_dir = str(folder)
            if config.training.threads is not None:
                torch.set_num_threads(config.training.threads)
            start = find_start(config, checkpoint)
            session = _session(config, folder, data, device, world, start, configs)
            if checkpoint is not None:
                session.restore(checkpoint)
            with stop_signals(session.stop):
                if world.first:
                    session.open(record_start(folder, config, session.dataset, overrides))
                trained = session.train()
                return session.finish() if trained and world.first else session.summary([])


def _session(
    config: Config,
    folder: Path,
    data: InMemory | None,
    device: torch.device,
    world: World,
    start: Start | None,
    configs: Sequence[Path],
) -> Session:
    source: Any = config.dataset.source if data is None else data
    if data is None and source == IN_MEMORY:
        raise InputError(
            "the run's data was handed to torchrl_td.train: to continue it call that again, with "
            "settings=['resume=auto']"
        )
    # Played may be for another length than the data's episodes have, whose a file's name can tell.
    named = isinstance(source, str) and step_limit(source.removeprefix("d4rl:"))
    episodes, identity = load_with_identity(
        source,
        observation_keys=config.task.observation_keys,
        max_episode_steps=None if named else config.task.max_episode_steps,
        progress=config.progress and world.first,
    )
    dataset = {**identity, **describe_returns(config, episodes)}
    if not episodes["next", "reward"].any():
        warn_once(f"{identity['source']}: all rewards are zero, so no return tells good from bad")
    if not config.evaluation.episodes:  # the environment may not even be installed
        spec = _known_actions(config.dataset.source if data is None else "", episodes)
        return Session(config, folder, episodes, dataset, spec, device, world, start)
    env = make_base_env(config.task, device, seed=config.evaluation.seed)
    with opened(env):
        episodes = widened(episodes, choices_of(env.action_spec) or 0)
        check_data(episodes, env, config.task, source if data is None else "dataset")
        if config.logger.video and world.first:
            check_video(config.task)  # not only when the training is done
        spec = env.action_spec
        session = Session(config, folder, episodes, dataset, spec, device, world, start)
        if world.first:
            check_playable(session.trainer.model, config, env, dataset)
            if configs and (beside := baseline_beside(config, folder, configs)) is not None:
                check_beside(beside, session.trainer.model, session.action, episodes)
    return session


def _known_actions(source: str, episodes: TensorDictBase) -> TensorSpec:
    """The action's bounds where no environment says them: the source's, else the data's own."""
    if are_choices(episodes):
        return OneHot(episodes["action"].shape[-1])
    info = source_info(source)
    if info.action_low is not None and info.action_high is not None:
        return Bounded(torch.tensor(info.action_low), torch.tensor(info.action_high))
    low, high = extremes(episodes["action"])
    return Bounded(low, high)


def describe_returns(config: Config, episodes: TensorDictBase) -> dict[str, float]:
    """Mean and best return and score of the data's own episodes."""
    returns, number = numbered_returns(episodes)
    scored = returns
    if config.task.score_key is not None:  # as in kitchen: the most sub-tasks done at a time
        reward = episodes["next", "reward"].reshape(-1).double()
        scored = torch.zeros_like(returns).index_reduce_(0, number, reward, "amax")
    score = normalized_score(scored, config.task)
    return {
        "return_mean": float(returns.mean()),
        "return_best": float(returns.max()),
        "score_mean": float(score.mean()),
        "score_best": float(score.max()),
    }


def pick_device(name: str) -> torch.device:
    """``auto`` takes a GPU if there is one; under ``torchrun`` each process its own.

    Raises:
        InputError: if the device is unknown or not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = local_device(torch.device(name))
        torch.zeros(1, device=device)
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
    except (RuntimeError, AssertionError) as error:
        reason = shorten(first_line(error), 160, placeholder=" ...")
        raise InputError(f"device={name} cannot be used: {reason}; try device=cpu") from None
    return device
