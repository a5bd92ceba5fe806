"""Replay buffers of windows, and the split of episodes into training and validation."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer, TensorDictReplayBuffer, TensorStorage

from torchrl_td.data.return_tilt import tilted_weights
from torchrl_td.data.transitions import successor_known
from torchrl_td.data.validation import warn_once
from torchrl_td.data.window_sampler import WindowSampler

_TRAINED_ON = (
    "observation",
    "action",
    "returns_to_go",
    "episode",
    ("next", "observation"),
    ("next", "returns_to_go"),
)


def make_buffer(
    normalized: TensorDictBase,
    horizon: int,
    batch_size: int,
    seed: int,
    device: torch.device,
    *,
    history: int | None = None,
    stride: int = 1,
    entries: tuple[str, ...] = (),
    return_tilt: float = 0.0,
) -> TensorDictReplayBuffer:
    """A replay buffer that yields windows [B, T] of a normalised dataset [N].

    Where some step's successor is not known (:func:`~torchrl_td.data.transitions.successor_known`),
    they hold ``("next", "known")`` [B, T, 1], 1 or 0, for the losses that learn from pairs.
    The dataset goes to the device; where it does not fit, it stays on the CPU. History and
    stride are as for :class:`~torchrl_td.data.WindowSampler`, the tilt, where it is not 0, as for
    :func:`~torchrl_td.data.return_tilt.tilted_weights`. The buffer's own generator is one of
    the CPU, and so draws the same windows on every device.

    Raises:
        InputError: no episode is as long as the horizon.
    """
    data = normalized.select(*_TRAINED_ON, *entries)
    known = successor_known(normalized)
    if not known.all():
        data["next", "known"] = known.float()
    if return_tilt:
        data["weight"] = tilted_weights(normalized, return_tilt)
    try:
        storage = _storage(data, device)
    except torch.OutOfMemoryError:
        storage = _storage(data, torch.device("cpu"))
    weight_key = "weight" if return_tilt else None
    sampler = WindowSampler(horizon, history, stride=stride, weight_key=weight_key)
    sampler.refresh(storage)
    return TensorDictReplayBuffer(
        storage=storage,
        sampler=sampler,
        batch_size=batch_size,
        generator=torch.Generator().manual_seed(seed),
    )


def _storage(data: TensorDictBase, device: torch.device) -> TensorStorage:
    """A copy of the data in the device's memory, of which some is mapped from a file so far."""
    held = data.clone() if device.type == "cpu" else data.to(device)
    return TensorStorage(held, device=device)


def draws_state(buffer: ReplayBuffer) -> dict[str, Tensor]:
    """For a checkpoint: the state of a buffer's own generator, if it has one."""
    generator = buffer.sampler._rng
    return {} if generator is None else {"generator": generator.get_state()}


def restore_draws(buffer: ReplayBuffer, state: Mapping[str, Tensor]) -> None:
    """Restores :func:`draws_state`."""
    if buffer.sampler._rng is not None:
        buffer.sampler._rng.set_state(state["generator"].cpu())


def split_episodes(
    episodes: TensorDictBase, share: float, seed: int, window: int
) -> tuple[Tensor, Tensor | None]:
    """Holds a share of whole episodes out for validation.

    Both parts get an episode as long as a plan's window, without which they hold no whole one.
    Where the share is above 0 and nothing can be held out, a warning says so.

    Args:
        episodes: dataset [N] with ``episode``.
        share: of the episodes.
        seed: of the choice.
        window: (H − 1) m + 1, steps from a plan's first state to its last.

    Returns:
        Row numbers of the training and of the validation data; ``None`` for the latter if the
        share is 0 or there are too few episodes to spare one.
    """
    number = episodes["episode"].reshape(-1)  # [N]
    lengths = torch.bincount(number)  # [E]
    count = len(lengths)
    held_out = int(share * count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    long = torch.nonzero(lengths[order] >= window).flatten()  # places in the order
    if held_out == 0 or len(long) < 2:
        if share > 0 and len(long):  # data without a long one is refused anyway
            warn_once(_why_nothing_held_out(share, count, len(long), window))
        return torch.arange(len(number)), None
    # The first long one goes first, to be held out, and the last one last, to be trained on.
    first, last = int(long[0]), int(long[-1])
    pieces = (order[first], order[:first], order[first + 1 : last], order[last + 1 :], order[last])
    order = torch.cat([piece.reshape(-1) for piece in pieces])
    mask = torch.zeros(count, dtype=torch.bool)
    mask[order[:held_out]] = True
    mask = mask[number]
    return torch.nonzero(~mask).flatten(), torch.nonzero(mask).flatten()


def _why_nothing_held_out(share: float, count: int, long: int, window: int) -> str:
    """The line that says that there will be no validation, and what to do."""
    none = "is held out, so there are no validation losses"
    if long < 2:
        return (
            f"dataset.validation_share={share}: no episode {none}: {long} of {count} have the "
            f"{window} steps of a plan, two are needed; record more, or set the share to 0"
        )
    enough = math.ceil(100 / count) / 100
    return (
        f"dataset.validation_share={share}: none of the {count} episodes {none}; "
        f"set it to {enough} to hold one out, or to 0 to do without"
    )
