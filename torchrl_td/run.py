"""A whole run: data, training with checkpoints, evaluation, results and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.data import ReplayBuffer

from torchrl_td.checkpoint import find_checkpoint, load_about, set_aside_after, tidy_checkpoints
from torchrl_td.config import Config, check_config, to_dict
from torchrl_td.data import check_matches_env, dataset_identity, load_episodes
from torchrl_td.distributed import World, joined, local_device
from torchrl_td.envs import make_base_env
from torchrl_td.errors import TDError, first_line
from torchrl_td.evaluation import normalized_score
from torchrl_td.run_folder import read_settings, record_start, run_folder
from torchrl_td.session import Session
from torchrl_td.showing import check_video

# What a resumed run may do differently: none of it changes what is learned.
_CHANGEABLE = (
    "resume",
    "output_dir",
    "device",
    "progress",
    "logger",
    "training.stop_after",
    "training.threads",
    "training.compile",
    "training.cudagraph",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "evaluation.workers",
    "evaluation.compile",
)


def run(
    config: Config,
    overrides: Sequence[str] | None = None,
    data: TensorDictBase | ReplayBuffer | None = None,
) -> dict[str, Any]:
    """Trains on offline data and evaluates; the whole of ``examples/td_offline.py``.

    Args:
        config: checked settings; ``config.resume`` continues an interrupted run.
        overrides: the ``key=value`` words among them that the user gave. A resumed run has its
            own settings, and refuses words that would change them.
        data: episodes to train on in place of ``dataset.source``.

    Returns:
        What was written to ``results.json``. Without ``results`` if stopped early, and with
        ``stopped_by``, the signal's number, if a signal did it.

    Raises:
        TDError: for anything the user can mend, before hours are spent.
    """
    resuming = config.resume is not None
    folder = Path(config.output_dir)
    if config.resume not in (None, "auto"):
        folder = _run_of(Path(str(config.resume)).expanduser())
    device = local_device(pick_device(config.device))
    with joined(device) as world:
        owned = run_folder(folder, resuming) if world.first else nullcontext(folder.expanduser())
        with owned as folder:
            checkpoint = None
            if resuming:
                config, checkpoint = _resumed(config, folder, overrides, world)
            config.output_dir = str(folder)
            if config.training.threads is not None:
                torch.set_num_threads(config.training.threads)
            session = _session(config, folder, data, device, world)
            if checkpoint is not None:
                session.restore(checkpoint)
            if world.first:
                session.open(record_start(folder, config, session.dataset, overrides))
            if not session.train():
                return session.summary([])
            return session.finish() if world.first else session.summary([])


def _session(
    config: Config,
    folder: Path,
    data: TensorDictBase | ReplayBuffer | None,
    device: torch.device,
    world: World,
) -> Session:
    source: Any = config.dataset.source if data is None else data
    reading: dict[str, Any] = {
        "observation_keys": config.task.observation_keys,
        "max_episode_steps": config.task.max_episode_steps,
        "progress": config.progress and world.first,
    }
    episodes = load_episodes(source, **reading)
    env = make_base_env(config.task)
    try:
        check_matches_env(episodes, env, name=source if data is None else "dataset")
        action_spec = env.action_spec
    finally:
        env.close(raise_if_closed=False)
    if config.logger.video and world.first:
        check_video(config.task)  # not only when the training is done
    identity = dataset_identity(source, **reading)
    dataset = {**identity, **describe_returns(config, episodes)}
    return Session(config, folder, episodes, dataset, action_spec, device, world)


def describe_returns(config: Config, episodes: TensorDictBase) -> dict[str, float]:
    """Mean and best return and score of the data's own episodes."""
    number = episodes["episode"].reshape(-1)
    reward = episodes["next", "reward"].reshape(-1).double()
    returns = torch.zeros(int(number.max()) + 1, dtype=torch.float64)
    returns.index_add_(0, number, reward)
    scored = returns
    if config.task.score_key is not None:  # as in kitchen: the most sub-tasks done at a time
        scored = torch.zeros_like(returns).index_reduce_(0, number, reward, "amax")
    score = normalized_score(scored, config.task)
    return {
        "return_mean": float(returns.mean()),
        "return_best": float(returns.max()),
        "score_mean": float(score.mean()),
        "score_best": float(score.max()),
    }


def pick_device(name: str) -> torch.device:
    """``auto`` takes a GPU if there is one.

    Raises:
        TDError: if the device is unknown or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise TDError(f"device={name} cannot be used: {reason}; try device=cpu") from None
    return device


def _run_of(path: Path) -> Path:
    folder = path.parent if path.name == "checkpoint" else path
    if not folder.is_dir():
        raise TDError(f"nothing to resume: {folder} is no folder; give a run's output_dir")
    return folder


def _resumed(
    config: Config, folder: Path, overrides: Sequence[str] | None, world: World
) -> tuple[Config, Path | None]:
    """The interrupted run's settings in place of the given ones, and its checkpoint."""
    saved, checkpoint = folder / "checkpoint", None
    if world.first and saved.is_dir():
        tidy_checkpoints(saved)
    world.wait()  # the others read what the first has tidied
    if any(saved.glob("step-*")):
        checkpoint = find_checkpoint(saved)
        about = load_about(checkpoint)
        settings = check_config(about["config"])
        if world.first:
            set_aside_after(saved, about["step"])
    elif config.resume == "auto" and not (folder / "config.yaml").exists():
        return config, None
    else:
        settings = read_settings(folder)
    return _continued(settings, config, overrides), checkpoint


def _continued(stored: Config, given: Config, overrides: Sequence[str] | None) -> Config:
    """The stored settings with what a resumed run may change.

    Raises:
        TDError: if something else was to change.
    """
    named = [word.lstrip("+~").partition("=")[0] for word in overrides or ()]
    if given.resume == "auto":
        # The same words as at the start: all that they mean has to be the same.
        before, now = _flat(to_dict(stored)), _flat(to_dict(given))
        for key in sorted(set(before) | set(now)):
            if not _changeable(key) and before.get(key) != now.get(key):
                raise TDError(
                    f"the run in {given.output_dir} has {key}={before.get(key)}, not "
                    f"{now.get(key)}; give the settings it was started with, or another output_dir"
                )
    for key in named if given.resume != "auto" else ():
        if not _changeable(key):
            raise TDError(
                f"resume continues a run with its own settings, so {key!r} cannot be given; "
                f"allowed are {', '.join(_CHANGEABLE)}"
            )
    whole = overrides is None or given.resume == "auto"
    for key in _CHANGEABLE:
        group, _, name = key.rpartition(".")
        if whole or key == "training.stop_after" or any(_within(n, key) for n in named):
            target, source = (
                (stored, given)
                if not group
                else (
                    getattr(stored, group),
                    getattr(given, group),
                )
            )
            setattr(target, name, getattr(source, name))
    return stored


def _within(key: str, setting: str) -> bool:
    return key == setting or key.startswith(f"{setting}.")


def _changeable(key: str) -> bool:
    return any(_within(key, setting) for setting in _CHANGEABLE)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
