"""A storage whose entries lie side by side, so that a batch of windows is one gather."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import TensorStorage


class PackedStorage(TensorStorage):
    """Steps [N] with every float32 entry [N, D] as some columns of one matrix.

    Gathering a step from six entries misses the cache six times, and is six operations. Here a
    window's steps are neighbours in memory, whatever the dataset's size. The storage's entries
    are views of the matrix: nothing is held twice.

    Args:
        data: steps [N]. What is not float32, such as the episode's number, stays apart: it is
            in what a slice returns, where a sampler finds it, and not in a batch.
        device: where the data goes; ``None`` leaves it where it is.

    Raises:
        ValueError: there is no float32 entry, or one is not [N, D].

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_td.training.packed_storage import PackedStorage
        >>> steps = TensorDict(
        ...     observation=torch.arange(8.0).view(4, 2),
        ...     action=torch.arange(4.0).view(4, 1),
        ...     episode=torch.zeros(4, dtype=torch.int64),
        ...     batch_size=[4],
        ... )
        >>> batch = PackedStorage(steps).get(torch.tensor([[0, 1], [3, 3]]))
        >>> batch["observation"][1]
        tensor([[6., 7.],
                [6., 7.]])
        >>> sorted(batch.keys())
        ['action', 'observation']
    """

    def __init__(self, data: TensorDictBase, *, device: torch.device | None = None) -> None:
        columns = {k: v for k, v in data.items(True, True) if v.dtype is torch.float32}
        if not columns or any(value.ndim != 2 for value in columns.values()):
            raise ValueError("a packed storage needs float32 entries of shape [N, D]")
        device = device or next(iter(columns.values())).device
        self._keys = [k if isinstance(k, tuple) else (k,) for k in columns]
        self._widths = [value.shape[-1] for value in columns.values()]
        self._rows = torch.cat(list(columns.values()), -1).to(device)  # [N, sum of widths]
        views = self._unpacked(self._rows)
        super().__init__(data.exclude(*columns).to(device).update(views), device=device)

    def get(self, index: Any) -> TensorDictBase:
        """The steps of an index tensor [...], or whatever a ``TensorStorage`` takes."""
        if not isinstance(index, Tensor) or index.dtype is not torch.int64:
            return super().get(index)
        rows = self._rows.index_select(0, index.reshape(-1))  # [B T, sum of widths]
        return self._unpacked(rows.view(*index.shape, -1))

    def _unpacked(self, rows: Tensor) -> TensorDict:
        """The entries of rows [..., sum of widths], as views."""
        entries: dict[str, Any] = {}
        for key, value in zip(self._keys, rows.split(self._widths, -1), strict=True):
            place = entries
            for name in key[:-1]:
                place = place.setdefault(name, {})
            place[key[-1]] = value
        return TensorDict(entries, batch_size=rows.shape[:-1], device=rows.device)
