"""Windows of episodes, drawn from a standard TorchRL replay buffer."""

from __future__ import annotations

from typing import Any

import torch
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl import torchrl_logger
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.data.replay_buffers.storages import Storage, TensorStorage

from torchrl_td.errors import InputError


class WindowSampler(Sampler):
    """Draws windows [B, T] around steps chosen evenly from the whole dataset.

    A window is L = H − 1 steps of history, the last of them the present, and the H − 1 steps
    that follow, T = 2H − 2 in all. Where it reaches past its episode's ends the first or last
    step is repeated and ``mask`` is False, so the short histories of an episode's start occur
    as often as in play. Drawing is a handful of tensor operations on the storage's device,
    whatever the batch and the dataset's size.

    With a ``stride`` of m the window's neighbours lie m steps apart: position j holds the step
    ``present + j m``, and the entries under ``"next"`` are those of the step before its successor,
    so that ``("next", "observation")`` is the state m steps on, as ``observation`` is at position
    j + 1, and ``("next", "returns_to_go")`` likewise. Everything else, the action too, is that of
    the step itself. ``("next", "known")`` [B, T, 1] is then added, False where the successor lies
    past the episode's end: there ``"next"`` holds what followed the last step.

    Use it with a :class:`~torchrl.data.TensorDictReplayBuffer` over a flat storage [N] whose
    episodes are contiguous; the buffer then yields ``[B, T]`` with the key ``mask``.

    Args:
        horizon: H, the plan's length, the present included.
        history: L, steps of history, the present included; ``None`` takes H − 1. With 1 a window
            is the present and the plan, which is cheap to draw in large batches.
        stride: m, how many steps lie between a window's neighbours.
        episode_key: entry that numbers the episodes, shape [N] or [N, 1]. Without it, the
            episodes' ends are read from ``done_key``.
        done_key: entry that is True at each episode's last step.
        seed: seed of the sampler's own random number generator.

    Raises:
        InputError: if no episode is as long as the horizon, or the episodes are not contiguous or
            cannot be told apart.

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

    def __init__(
        self,
        horizon: int,
        history: int | None = None,
        *,
        stride: int = 1,
        episode_key: NestedKey = "episode",
        done_key: NestedKey = ("next", "done"),
        seed: int = 0,
    ) -> None:
        if horizon < 2:
            raise InputError(f"horizon must be at least 2, got {horizon}")
        if history is not None and history < 1:
            raise InputError(f"history must be at least 1, the present step, got {history}")
        if stride < 1:
            raise InputError(f"stride must be at least 1, got {stride}")
        self.horizon = horizon
        self.stride = stride
        self.history = horizon - 1 if history is None else history
        self.episode_key = episode_key
        self.done_key = done_key
        self.seed = seed
        self._generator: torch.Generator | None = None
        self._pending_state: Tensor | None = None
        self._bounds: Tensor | None = None  # [N, 2], first and last row of each step's episode
        self._offsets: Tensor | None = None
        self._indexed_length = -1

    @property
    def length(self) -> int:
        """T, the number of steps in a window."""
        return self.history + self.horizon - 1

    @property
    def _span(self) -> int:
        """Steps from a plan's first to its last, both included."""
        return (self.horizon - 1) * self.stride + 1

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict[str, Any]]:
        """Returns indices into the storage [B, T] and the mask [B, T]."""
        if len(storage) != self._indexed_length:
            self.index(storage)
        assert self._bounds is not None
        device = self._bounds[0].device
        present = torch.randint(
            self._indexed_length, (batch_size,), generator=self._generator, device=device
        )
        return self.window(storage, present)

    def window(self, storage: Storage, present: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """The windows around given steps [B] of the storage, which must have been indexed."""
        assert self._bounds is not None and self._offsets is not None
        bounds = self._bounds.index_select(0, present)  # [B, 2]
        wanted = present.unsqueeze(-1) + self._offsets  # [B, T]
        index = wanted.clamp(bounds[:, :1], bounds[:, 1:])
        info: dict[str, Any] = {"mask": index == wanted}
        data = storage.get(slice(0, len(storage))) if self.stride > 1 else {}
        if "next" in data:
            before = wanted + (self.stride - 1)  # [B, T], the steps before the successors
            last = before.clamp(bounds[:, :1], bounds[:, 1:])
            known = info["mask"] & (last == before)
            following = data["next"][last]  # [B, T]
            stored = following.get("known", None)  # [B, T, 1]
            known = known.unsqueeze(-1) if stored is None else known.unsqueeze(-1) & stored.bool()
            following.set("known", known)
            info.update({("next", *_path(k)): v for k, v in following.items(True, True)})
        return index, info

    def index(self, storage: Storage) -> None:
        """Finds each step's episode bounds, once per dataset.

        Drawing does so by itself; before it, this refuses data early.

        Raises:
            InputError: no episode is as long as the horizon, they cannot be told apart, or the
                storage holds no tensors.
        """
        count = len(storage)
        _check_tensors(storage)
        data = storage.get(slice(0, count))
        episode = data.get(self.episode_key, None)
        if episode is None:
            done = data.get(self.done_key, None)
            if done is None:
                raise InputError(
                    f"the data has neither {self.episode_key!r} nor {self.done_key!r} to tell "
                    f"episodes apart; name the entry with episode_key or done_key"
                )
            done = done.reshape(count).long()
            episode = done.cumsum(0) - done
        episode = episode.reshape(count)
        change = torch.nonzero(episode[1:] != episode[:-1]).flatten() + 1
        starts = torch.cat([change.new_zeros(1), change])
        ends = torch.cat([change, change.new_full((1,), count)])
        if torch.unique(episode[starts]).numel() != starts.numel():
            raise InputError(
                f"{self.episode_key!r} is not contiguous: an episode's steps lie in several "
                f"places; sort the data by episode"
            )
        longest = int((ends - starts).max())
        if longest < self._span:
            stride = f", stride={self.stride}" if self.stride > 1 else ""
            raise InputError(
                f"no episode is as long as the horizon: the longest has {longest} steps, "
                f"horizon={self.horizon}{stride}; use a smaller horizon or longer episodes"
            )
        number = torch.zeros_like(episode, dtype=torch.long)
        number[change] = 1
        number = number.cumsum(0)
        self._bounds = torch.stack([starts, ends - 1], -1)[number]
        self._offsets = torch.arange(self.length, device=episode.device) - (self.history - 1)
        self._offsets *= self.stride
        if self._generator is None:
            self._generator = torch.Generator(device=episode.device)
            self._restore(self._generator)
        self._indexed_length = count

    def reseed(self, seed: int) -> None:
        """Starts the random number generator anew."""
        self.seed = seed
        self._pending_state = None
        if self._generator is not None:
            self._generator.manual_seed(seed)

    def _empty(self) -> None:
        self._indexed_length = -1

    # Not only a length that changed asks for a new index: a full storage is written over.
    def add(self, index: int) -> None:
        self._indexed_length = -1

    def extend(self, index: Tensor) -> None:
        self._indexed_length = -1

    def state_dict(self) -> dict[str, Any]:
        """The random number generator's state; the dataset is not part of it."""
        if self._generator is None:
            return {"generator": self._pending_state}
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._pending_state = state_dict["generator"]
        if self._generator is not None:
            self._restore(self._generator)

    def _restore(self, generator: torch.Generator) -> None:
        state = self._pending_state
        if state is None:  # saved before the first draw
            generator.manual_seed(self.seed)
        elif state.numel() == generator.get_state().numel():
            generator.set_state(state)
        else:
            torchrl_logger.warning(
                "the windows' random state was saved on another kind of device: from here on other "
                "windows are drawn than would have been there"
            )
            generator.manual_seed(self.seed + 1)  # not the windows of the start again

    def dumps(self, path: Any) -> None:
        """Not needed: the trainer's checkpoint holds :meth:`state_dict`."""

    def loads(self, path: Any) -> None:
        """Not needed: the trainer's checkpoint holds :meth:`state_dict`."""


def _path(key: NestedKey) -> tuple[str, ...]:
    return key if isinstance(key, tuple) else (key,)


def _check_tensors(storage: Storage) -> None:
    """Refuses a storage that keeps its entries apart, and so cannot gather [B, T] of them."""
    if not isinstance(storage, TensorStorage):
        raise InputError(
            f"windows are drawn from a storage of tensors, not from a {type(storage).__name__}; "
            "use LazyTensorStorage"
        )
