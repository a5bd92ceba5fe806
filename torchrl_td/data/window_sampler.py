"""Windows of episodes, drawn from a standard TorchRL replay buffer."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from tensordict import is_tensor_collection
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data import find_start_stop_traj
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.data.replay_buffers.storages import Storage, TensorStorage

from torchrl_td.data.window_places import entries_following, reach_of_steps, seams, version
from torchrl_td.errors import InputError, check_whole

_TRAJECTORY_KEYS: tuple[NestedKey, ...] = (("collector", "traj_ids"), "episode")
_END_KEY = ("next", "done")


class WindowSampler(Sampler):
    """Draws windows [B, T] around steps chosen from everything that is stored.

    They are chosen evenly or, with a ``weight_key``, in proportion to the weight stored with them.

    A window is L = H − 1 steps of history, the last of them the present, and the H − 1 steps
    that follow, T = 2H − 2 in all. Where it reaches past its trajectory's ends the first or last
    step is repeated and ``mask`` is False, so the short histories of an episode's start occur
    as often as in play. Drawing is a handful of tensor operations on the storage's device,
    whatever the batch and the dataset's size.

    With a ``stride`` of m the window's neighbours lie m steps apart: position j holds the step
    ``present + j m``, and the entries under ``"next"`` are those of the step before its successor,
    so that ``("next", "observation")`` is the state m steps on, as ``observation`` is at position
    j + 1, and ``("next", "returns_to_go")`` likewise. Everything else, the action too, is that of
    the step itself. ``("next", "known")`` [B, T, 1] is then added, False where the successor lies
    past the trajectory's end: there ``"next"`` holds what followed the last step.

    It finds trajectories as TorchRL's :class:`~torchrl.data.SliceSampler` does, with
    :func:`~torchrl.data.find_start_stop_traj`: in a buffer that is still written to, one that goes
    round and overwrites its oldest steps included, and in storages with ``ndim=2``. Where several
    environments share a storage of one dimension, only trajectory ids tell their steps apart.
    Random numbers come from the buffer's ``generator``, or from PyTorch's own.

    Use it with a :class:`~torchrl.data.TensorDictReplayBuffer`, which then yields ``[B, T]`` with
    the key ``mask``; its ``batch_size`` counts windows.

    Args:
        horizon: H, the plan's length, the present included.
        history: L, steps of history, the present included; ``None`` takes H − 1. With 1 a window
            is the present and the plan, which is cheap to draw in large batches.
        stride: m, how many steps lie between a window's neighbours.
        traj_key: entry that differs between neighbouring trajectories. By default
            ``("collector", "traj_ids")`` if there is one, else ``"episode"``, else ``end_key``.
        end_key: entry that is True at each trajectory's last step, ``("next", "done")`` by
            default; if it is given, and no ``traj_key``, it alone is read.
        weight_key: entry with the weight at which each step is chosen to be a window's present,
            0 or more; ``None`` chooses evenly.

    Raises:
        InputError: if no trajectory is as long as the horizon, or they cannot be told apart; or
            if weights are negative, not finite, or all 0.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
        >>> from torchrl_td.data import WindowSampler
        >>> episodes = TensorDict(
        ...     observation=torch.randn(100, 3), episode=torch.arange(100) // 50, batch_size=[100]
        ... )
        >>> buffer = TensorDictReplayBuffer(
        ...     storage=LazyTensorStorage(100), sampler=WindowSampler(horizon=8), batch_size=4
        ... )
        >>> _ = buffer.extend(episodes)
        >>> window = buffer.sample()
        >>> window.shape, window["mask"].shape
        (torch.Size([4, 14]), torch.Size([4, 14]))
    """

    # Read off the storage, and again when that changes:
    _storage: weakref.ref[Storage] | None
    _state: tuple[Any, ...] | None  # of the storage and what was read of it, when it was
    _read: list[Tensor]  # [T, ...], what tells trajectories apart, and the steps' weights
    _reach: Tensor  # [N, 2], each step's distance to its trajectory's first (negative) and last
    _offsets: Tensor  # [T], of a window's positions from the present
    _summed: Tensor | None  # [N], the steps' weights up to each, of 1 in all
    _shape: torch.Size

    def __init__(
        self,
        horizon: int,
        history: int | None = None,
        *,
        stride: int = 1,
        traj_key: NestedKey | None = None,
        end_key: NestedKey | None = None,
        weight_key: NestedKey | None = None,
    ) -> None:
        check_whole("horizon", horizon, 2)
        if history is not None:
            check_whole("history", history, 1)
        check_whole("stride", stride, 1)
        self.horizon = horizon
        self.history = horizon - 1 if history is None else history
        self.stride = stride
        self.traj_key = traj_key
        self.end_key = end_key
        self.weight_key = weight_key
        self._empty()

    @property
    def length(self) -> int:
        """T, the number of steps in a window."""
        return self.history + self.horizon - 1

    def sample(self, storage: Storage, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """Returns an index into the storage [B, T] and the mask [B, T]."""
        self.refresh(storage)
        return self.window(storage, self._draw(batch_size))

    def _draw(self, count: int) -> Tensor:
        """Numbers [B] of present steps, on the storage's device."""
        reach, rng = self._reach, self._rng
        device = reach.device if rng is None else rng.device
        if self._summed is None:
            drawn = torch.randint(len(reach), (count,), generator=rng, device=device)
        else:
            drawn = torch.rand(count, dtype=torch.float64, generator=rng, device=device)
        if reach.is_cuda and not drawn.is_cuda:
            # From pinned memory, so that the host need not wait for the copy.
            drawn = drawn.pin_memory().to(reach.device, non_blocking=True)
        drawn = drawn.to(reach.device)
        if self._summed is None:
            return drawn
        return torch.searchsorted(self._summed, drawn, right=True)

    def window(self, storage: Storage, present: Tensor) -> tuple[Any, dict[str, Any]]:
        """The windows around steps [B] of a storage, numbered as in one flattened.

        Args:
            storage: the one drawn from, or refreshed for, last.
            present: numbers of the windows' present steps.
        """
        reach = self._reach.index_select(0, present)  # [B, 2]
        wanted = self._offsets.expand(len(present), -1)  # [B, T], steps from the present
        steps = wanted.clamp(reach[:, :1], reach[:, 1:])
        info: dict[Any, Any] = {"mask": steps == wanted}
        if self.stride > 1:
            before = wanted + (self.stride - 1)  # [B, T], to the step before the successor
            last = before.clamp(reach[:, :1], reach[:, 1:])
            known = info["mask"] & (last == before)
            info.update(entries_following(storage, self._index(present, last), known))
        return self._index(present, steps), info

    def _index(self, present: Tensor, steps: Tensor) -> Any:
        """Where steps [B, T] from the present ones [B] lie, which in a ring may be at its start."""
        if len(self._shape) == 1:
            return (present.unsqueeze(-1) + steps) % self._shape[0]
        time, *lane = torch.unravel_index(present, self._shape)
        time = (time.unsqueeze(-1) + steps) % self._shape[0]
        return time, *(place.unsqueeze(-1).expand_as(time) for place in lane)

    def refresh(self, storage: Storage) -> None:
        """Finds each step's place in its trajectory, if that may have changed.

        Drawing does so by itself; before it, this refuses data early.

        Raises:
            InputError: no trajectory is as long as the horizon, they cannot be told apart, or the
                storage is empty or holds no tensors.
        """
        revision = storage._mutation_revision
        seen = self._storage is not None and self._storage() is storage
        if seen and self._state == (revision, *map(version, self._read)):
            return
        signal, is_end = self._signal_of(storage)
        end = signal.bool() if is_end else signal != signal.roll(-1, 0)
        end = end.index_fill(0, seams(storage, end), True)
        start, _, lengths = find_start_stop_traj(end=end, at_capacity=storage._is_full)
        self._check_length(int(lengths.max()))
        self._shape = signal.shape
        self._reach = reach_of_steps(start, lengths, signal.shape)
        offsets = torch.arange(1 - self.history, self.horizon, device=signal.device)
        self._offsets = self.stride * offsets
        weight = None if self.weight_key is None else self._weight_of(storage)
        self._summed = None if weight is None else self._sum_weights(weight)
        self._read = [signal] if weight is None else [signal, weight]
        self._storage, self._state = weakref.ref(storage), (revision, *map(version, self._read))

    def _signal_of(self, storage: Storage) -> tuple[Tensor, bool]:
        """The entry that tells trajectories apart [T, ...], and whether it marks their ends."""
        if not isinstance(storage, TensorStorage):
            raise InputError(
                f"windows are drawn from a storage of tensors, not from a "
                f"{type(storage).__name__}; use LazyTensorStorage"
            )
        if not len(storage):
            raise InputError("the replay buffer is empty; extend it before drawing windows")
        data = storage.get(slice(None))
        if not is_tensor_collection(data):
            raise InputError("windows are drawn from tensordicts; extend the buffer with one")
        end_key = _END_KEY if self.end_key is None else self.end_key
        keys = [end_key] if self.end_key is not None else [*_TRAJECTORY_KEYS, end_key]
        keys = keys if self.traj_key is None else [self.traj_key]
        found = [key for key in keys if data.get(key, None) is not None]
        if not found:
            raise InputError(
                f"the data has no entry {' or '.join(map(repr, keys))} to tell episodes apart; "
                "name one with traj_key or end_key"
            )
        signal, shape = data[found[0]], data.shape[: storage.ndim]
        if signal.numel() != shape.numel():
            raise InputError(
                f"{found[0]!r} has shape {tuple(signal.shape)} where the storage has "
                f"{tuple(shape)}; give the storage an ndim that counts the environments"
            )
        return signal.reshape(shape), found[0] == end_key

    def _weight_of(self, storage: Storage) -> Tensor:
        """The entry that holds the steps' weights."""
        weight = storage.get(slice(None)).get(self.weight_key, None)
        if weight is None or weight.numel() != len(self._reach):
            raise InputError(
                f"the data has no entry {self.weight_key!r} with one weight for each step"
            )
        return weight

    def _sum_weights(self, weight: Tensor) -> Tensor:
        """The share of all weight that the steps up to each have [N], the last of them 1."""
        summed = weight.reshape(-1).double().cumsum(0)
        if not (torch.isfinite(summed[-1]) and summed[-1] > 0 and (weight >= 0).all()):
            raise InputError(
                f"weights {self.weight_key!r} must be finite, 0 or more, and not all 0"
            )
        return summed / summed[-1]

    def _check_length(self, longest: int) -> None:
        """Refuses data that holds no whole plan."""
        if longest < (self.horizon - 1) * self.stride + 1:
            stride = f", stride={self.stride}" if self.stride > 1 else ""
            smaller = (
                "a smaller horizon (task.horizon, of preset strided task.strided_horizon and "
                "task.stride) or "
            )
            raise InputError(
                f"no episode is as long as the horizon: the longest has {longest} steps, "
                f"horizon={self.horizon}{stride}; use "
                f"{smaller if self.horizon > 2 or self.stride > 1 else ''}longer episodes"
            )

    def _empty(self) -> None:
        """Forgets the storage, and with it what it was seen to hold."""
        self._storage = self._state = None
        self._reach = self._offsets = torch.empty(0)
        self._read = []
        self._shape, self._summed = torch.Size([]), None

    def __getstate__(self) -> dict[str, Any]:
        """All but the generator, which the buffer sends, and what is read off the storage anew."""
        kept = ("horizon", "history", "stride", "traj_key", "end_key", "weight_key")
        return {name: value for name, value in super().__getstate__().items() if name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._empty()

    def state_dict(self) -> dict[str, Any]:
        """Empty: random numbers are the buffer's, and the rest is read off the storage."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads nothing."""

    def dumps(self, path: Any) -> None:
        """Writes nothing."""

    def loads(self, path: Any) -> None:
        """Reads nothing."""
