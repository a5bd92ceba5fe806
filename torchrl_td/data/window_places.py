"""Where the steps of a storage lie in their trajectories, and what follows them."""

from __future__ import annotations

from typing import Any

import torch
from tensordict.utils import unravel_key
from torch import Tensor
from torchrl.data.replay_buffers.storages import Storage


def reach_of_steps(start: Tensor, lengths: Tensor, shape: torch.Size) -> Tensor:
    """How far each step [N] is from its trajectory's ends [N, 2]: before, negative, and after.

    Args:
        start: coordinates of the trajectories' first steps [E, ndim], time first.
        lengths: of the trajectories [E].
        shape: of the storage, of N steps.
    """
    place = torch.arange(shape.numel(), device=start.device)
    place = place - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)  # [N]
    time, *lane = start.repeat_interleave(lengths, 0).unbind(-1)
    reach = start.new_empty((*shape, 2))
    after = lengths.repeat_interleave(lengths) - 1 - place
    reach[((time + place) % shape[0], *lane)] = torch.stack([-place, after], -1)
    return reach.flatten(0, -2)


def seams(storage: Storage, end: Tensor) -> Tensor:
    """The rows that are not followed by the next one: in a ring, those written last.

    A buffer's writer knows, also once it was read from disk. Where several buffers share the
    storage it may be any of theirs, and a cut too many does no harm.
    """
    writers = [buffer._writer for buffer in storage._attached_entities]
    rows = [writer._cursor - 1 for writer in writers if hasattr(writer, "_cursor")]
    if len(rows) != 1:
        rows.append(-1 if storage._last_cursor_index is None else storage._last_cursor_index)
    return torch.tensor(rows, device=end.device) % len(end)


def entries_following(storage: Storage, index: Any, known: Tensor) -> dict[Any, Tensor]:
    """The entries under ``"next"`` at an index, with ``known`` [B, T] among them, by their keys."""
    following = storage.get(slice(None)).get("next", None)
    if following is None:
        return {}
    following = following[index]  # [B, T]
    stored = following.get("known", None)  # [B, T, 1]
    known = known.unsqueeze(-1) if stored is None else known.unsqueeze(-1) & stored.bool()
    following["known"] = known
    return {unravel_key(("next", key)): value for key, value in following.items(True, True)}


def version(tensor: Tensor) -> int:
    """Counts what is written in place, where PyTorch does."""
    return 0 if tensor.is_inference() else tensor._version
