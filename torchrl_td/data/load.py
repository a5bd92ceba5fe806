"""Episodes from any source as one checked TensorDict in TorchRL's (TED) layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import ReplayBuffer

from torchrl_td.data.cache import checksums, load_through_cache
from torchrl_td.data.keys import Key
from torchrl_td.data.source import Counts, Source
from torchrl_td.data.sources.d4rl import d4rl_source
from torchrl_td.data.sources.minari import minari_source
from torchrl_td.data.sources.tensordict import buffer_contents, steps_from_tensordict
from torchrl_td.data.sources.trajectories import steps_from_trajectories, steps_of_flat
from torchrl_td.data.transitions import finish
from torchrl_td.data.validation import (
    broken_successors,
    check_not_zero,
    unlikely_ends,
    warn_once,
)
from torchrl_td.errors import InputError

InMemory: TypeAlias = (
    TensorDictBase | ReplayBuffer | Mapping[str, Any] | Sequence[Mapping[str, Any]]
)
"""What Python holds, in place of a source by name."""


def load_episodes(
    source: str | InMemory,
    *,
    observation_keys: Sequence[str | Key] | None = None,
    max_episode_steps: int | None = None,
    device: torch.device | str | None = None,
    cache: bool = True,
    finite: bool = True,
    progress: bool = True,
) -> TensorDict:
    """Load offline episodes as one flat TensorDict, checked.

    Trajectories that end neither terminated nor truncated, as where a collector stopped in
    mid-episode, are left out with a warning that counts them: what they would have returned is
    not known, so nothing can be learnt from their returns-to-go.

    Data from files is memory-mapped: it is read once, a bounded part at a time, into
    a cache (:func:`torchrl_td.data.cache.cache_root` says where) and opened from there
    in seconds the next time, unless the files changed.

    Args:
        source: one of

            * ``"minari:<id>"``: a local Minari dataset, else a remote one, which is
              downloaded; ``pointmaze/umaze-v0``, ``medium``, ``large`` are recorded on
              first use.
            * ``"d4rl:<id or path>"``: D4RL's HDF5 file, on disk or downloaded.
            * a TensorDict in TED layout, such as a collector produced, or a TorchRL
              replay buffer of one; also a compact one, with no next observations.
            * a list of trajectories, each a mapping of arrays ``observations``, ``actions``,
              ``rewards`` and, where known, ``terminals`` and ``next_observations``, as the
              Decision Transformer's data is.
            * D4RL's mapping of such arrays over all steps (``env.get_dataset()``), whose
              episodes end where ``terminals`` or ``timeouts`` say so.

            Actions of whole numbers are choices, counted from 0 (Minari's from where their
            space starts).
        observation_keys: entries of a Dict observation to join, in this order, nested ones
            as tuples or with a slash. By default the order of
            :func:`torchrl_td.data.keys.observation_keys`.
        max_episode_steps: where a D4RL file marks no timeouts, the environment's step
            limit; by default known from the dataset's name.
        device: where the result lives; by default the CPU.
        cache: False reads the files anew and leaves nothing behind.
        finite: False lets NaN and Inf pass, to look at such data, not to train on it; it is
            never cached, and returns-to-go of its later episodes may be NaN as well.
        progress: show a progress bar where recording or reading takes long.

    Returns:
        TensorDict of batch size [N], steps in order, episodes one after the other:
        ``observation`` [N, O], ``action`` [N, A], ``("next", "observation")`` [N, O],
        ``("next", "reward")`` [N, 1], ``returns_to_go`` and ``("next",
        "returns_to_go")`` [N, 1] (undiscounted, raw), all float32; ``("next",
        "done")``, ``("next", "terminated")``, ``("next", "truncated")`` [N, 1] bool;
        ``episode`` [N] int64, counted from 0. Where the source does not hold what
        followed an episode's last step, its next observation is its own once more.

    Raises:
        InputError: the source is unknown or its data cannot be used; one line that names
            the dataset, the key and the remedy.
        NotFiniteError: the data holds NaN or Inf.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> state = torch.rand(5, 3)
    >>> data = TensorDict({
    ...     "observation": state[:-1], "action": torch.rand(4, 2),
    ...     "next": {
    ...         "observation": state[1:], "reward": torch.ones(4, 1),
    ...         "terminated": torch.tensor([[False], [True], [False], [False]]),
    ...         "truncated": torch.tensor([[False], [False], [False], [True]]),
    ...     },
    ... }, batch_size=[4])
    >>> load_episodes(data)["returns_to_go"].squeeze(-1)
    tensor([2., 1., 2., 1.])
    """
    reading = (observation_keys, max_episode_steps, progress)
    episodes, _, _ = _read(source, *reading, cache=cache, finite=finite)
    return episodes if device is None else episodes.to(device)


def load_with_identity(
    source: str | InMemory,
    *,
    observation_keys: Sequence[str | Key] | None = None,
    max_episode_steps: int | None = None,
    progress: bool = True,
) -> tuple[TensorDict, dict[str, Any]]:
    """The episodes of :func:`load_episodes`, and what tells them from other data, for JSON.

    Args:
        source, observation_keys, max_episode_steps, progress: as for :func:`load_episodes`.

    Returns:
        The episodes, and ``source``; ``path`` it was resolved to (None for data from Python);
        ``size`` in bytes of its files, or of the tensors; ``hash`` of the loaded values, the same
        wherever the data lies and whatever form it had; ``transitions``; ``episodes``.

    Raises:
        InputError: the data cannot be loaded.

    >>> import torch
    >>> from tensordict import TensorDict
    >>> data = TensorDict({
    ...     "observation": torch.ones(4, 3), "action": torch.ones(4, 2),
    ...     "next": {
    ...         "observation": torch.ones(4, 3), "reward": torch.ones(4, 1),
    ...         "done": torch.tensor([[False], [True], [False], [True]]),
    ...     },
    ... }, batch_size=[4])
    >>> _, identity = load_with_identity(data)
    >>> identity["source"], identity["transitions"], identity["episodes"]
    ('tensordict', 4, 2)
    """
    episodes, files, found = _read(source, observation_keys, max_episode_steps, progress)
    path: str | None = None
    if found is not None:
        path = str(found.path)
        size = sum(file.stat().st_size for file in found.files)
    else:
        size = sum(value.numel() * value.element_size() for value in episodes.values(True, True))
    identity = {
        "source": source if isinstance(source, str) else _kind(source),
        "path": path,
        "size": int(size),
        "hash": _content_hash(files or checksums(episodes)),
        "transitions": len(episodes),
        "episodes": int(episodes["episode"][-1]) + 1,
    }
    return episodes, identity


def _read(
    source: str | InMemory,
    keys: Sequence[str | Key] | None,
    max_episode_steps: int | None,
    progress: bool,
    *,
    cache: bool = True,
    finite: bool = True,
) -> tuple[TensorDict, dict[str, Any], Source | None]:
    """Checked episodes; what is known of their values and of their files, if they are of files."""
    found: Source | None = None
    files: dict[str, Any] = {}
    if isinstance(source, str):
        found = find_source(source, keys, max_episode_steps, progress)
        episodes, files = load_through_cache(
            found, use_cache=cache, finite=finite, progress=progress
        )
    else:
        episodes = _from_memory(source, keys, finite)
    broken = broken_successors(episodes)
    for words in [broken] if broken else unlikely_ends(episodes):
        warn_once(f"{source if isinstance(source, str) else _kind(source)}: {words}")
    return episodes, files, found


def find_source(
    source: str,
    observation_keys: Sequence[str | Key] | None = None,
    max_episode_steps: int | None = None,
    progress: bool = True,
) -> Source:
    """Resolve a named source; records or downloads what is missing.

    Args:
        source, observation_keys, max_episode_steps, progress: as for :func:`load_episodes`.

    Raises:
        InputError: it is unknown, cannot be had, or is not a readable dataset.
    """
    kind, _, name = source.partition(":")
    if kind == "minari" and name:
        return minari_source(name, observation_keys, progress=progress)
    if kind == "d4rl" and name:
        return d4rl_source(name, observation_keys, max_episode_steps)
    if Path(source).suffix in (".hdf5", ".h5"):
        raise InputError(f"unknown data source {source!r}: a D4RL file is given as 'd4rl:{source}'")
    raise InputError(
        f"unknown data source {source!r}: use 'minari:<id>', 'd4rl:<id or path>', or from Python "
        "a TensorDict, a replay buffer or a list of trajectories"
    )


def _from_memory(
    source: InMemory, keys: Sequence[str | Key] | None, finite: bool = True
) -> TensorDict:
    """The episodes of what Python holds, on the CPU."""
    name, counts = _kind(source), Counts()
    if isinstance(source, Sequence):
        steps = steps_from_trajectories(source, name, keys)
    else:
        if isinstance(source, ReplayBuffer):
            raw = buffer_contents(source)
        else:
            raw = source if isinstance(source, TensorDictBase) else steps_of_flat(source, name)
        steps = steps_from_tensordict(raw.cpu(), name, keys)
    episodes = finish(steps, name, counts, finite=finite)
    warning = counts.warning(name)
    if warning is not None:
        warn_once(warning)
    check_not_zero({key: bool(episodes[key].any()) for key in ("observation", "action")}, name)
    return episodes


def _kind(source: Any) -> str:
    """What a source from Python is called in messages."""
    if isinstance(source, ReplayBuffer):
        return "replay buffer"
    if isinstance(source, TensorDictBase):
        return "tensordict"
    if isinstance(source, (list, tuple)):
        return "list of trajectories"
    if isinstance(source, Mapping):
        return "mapping of arrays"
    raise InputError(
        f"unknown data source of type {type(source).__name__}: use 'minari:<id>', "
        "'d4rl:<id or path>', a TensorDict, a replay buffer, a list of trajectories or D4RL's "
        "mapping of arrays"
    )


def _content_hash(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """One hash of a dataset's values, of their checksums by key."""
    digest = hashlib.blake2b(digest_size=16)
    for key in sorted(entries):
        about = [key, entries[key]["dtype"], entries[key]["shape"], entries[key]["crc32"]]
        digest.update(json.dumps(about).encode())
    return digest.hexdigest()
