"""By how much states change within a plan."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor

from torchrl_td.errors import check_whole

_ROUNDING = 1e-6  # of a standard deviation: what changes by less is constant


def displacement_scale(
    episodes: TensorDictBase,
    horizon: int,
    stride: int = 1,
    samples: int = 20_000,
    seed: int = 0,
) -> Tensor:
    """Root mean square of s_{t+jm} − s_t for j = 0..H−1 over a (normalised) dataset.

    What a state changes by within a plan, to which the diffusion's noise and the generator's
    output can be scaled. About 0 and not about the mean: a state that drifts evenly has a scale
    too. Constant dimensions get 0.

    Args:
        episodes: dataset [N] with ``observation`` and ``episode``.
        horizon: H.
        stride: m, steps between a plan's neighbours.
        samples: number of random starts to measure at.
        seed: seed of those starts.

    Returns:
        Shape [H, O]; row 0 is 0.

    Raises:
        InputError: if the horizon, the stride or the number of samples is below 1.

    >>> from tensordict import TensorDict
    >>> x = torch.tensor([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0], [6.0, 5.0]])
    >>> data = TensorDict(observation=x, episode=torch.zeros(4, dtype=torch.int64), batch_size=[4])
    >>> displacement_scale(data, horizon=3)
    tensor([[0., 0.],
            [2., 0.],
            [4., 0.]])
    """
    for name, value in (("horizon", horizon), ("stride", stride), ("samples", samples)):
        check_whole(name, value, 1)
    observation, episode = episodes["observation"], episodes["episode"].view(-1)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(observation.shape[0], (samples,), generator=generator)
    start = start.to(observation.device)
    rows = [torch.zeros_like(observation[0])]
    for lag in range(stride, horizon * stride, stride):
        end = (start + lag).clamp(max=observation.shape[0] - 1)
        inside = (episode[end] == episode[start]) & (end - start == lag)
        change = (observation[end].double() - observation[start].double())[inside]
        rows.append(change.square().mean(0).sqrt().float() if len(change) else rows[-1])
    scale = torch.stack(rows)
    return torch.where(scale > _ROUNDING, scale, 0.0)
