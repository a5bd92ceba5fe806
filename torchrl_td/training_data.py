"""What is trained on: windows of some episodes, the others held out for validation."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import TensorDictReplayBuffer

from torchrl_td.data.steps import successor_known
from torchrl_td.data.storage import PackedStorage
from torchrl_td.data.windows import WindowSampler

_TRAINED_ON = (
    "observation",
    "action",
    "returns_to_go",
    "episode",
    ("next", "observation"),
    ("next", "returns_to_go"),
)


def make_buffer(
    normalized: TensorDictBase, horizon: int, batch_size: int, seed: int, device: torch.device
) -> TensorDictReplayBuffer:
    """A replay buffer that yields windows [B, T] of a normalised dataset [N].

    Where some step's successor is not known (:func:`~torchrl_td.data.steps.successor_known`),
    they hold ``("next", "known")`` [B, T, 1], 1 or 0, for the losses that learn from pairs.
    The dataset goes to the device; where it does not fit, it stays on the CPU.

    Raises:
        TDError: no episode is as long as the horizon.
    """
    data = normalized.select(*_TRAINED_ON)
    known = successor_known(normalized)
    if not known.all():
        data["next", "known"] = known.float()
    try:
        storage = PackedStorage(data, device=device)
    except torch.OutOfMemoryError:
        storage = PackedStorage(data, device=torch.device("cpu"))
    sampler = WindowSampler(horizon, seed=seed)
    sampler.index(storage)
    return TensorDictReplayBuffer(storage=storage, sampler=sampler, batch_size=batch_size)


def split_episodes(
    episodes: TensorDictBase, share: float, seed: int
) -> tuple[Tensor, Tensor | None]:
    """Holds a share of whole episodes out for validation.

    Returns:
        Row numbers of the training and of the validation data; ``None`` for the latter if the
        share is 0 or there are too few episodes to spare one.
    """
    number = episodes["episode"].reshape(-1)
    count = int(number.max()) + 1
    held_out = int(share * count)
    if held_out == 0:
        return torch.arange(len(number)), None
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:held_out]
    mask = torch.zeros(count, dtype=torch.bool)
    mask[chosen] = True
    mask = mask[number]
    return torch.nonzero(~mask).flatten(), torch.nonzero(mask).flatten()
