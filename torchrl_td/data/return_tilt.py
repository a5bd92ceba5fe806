"""Weights that draw a dataset's better episodes more often."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor

from torchrl_td.data.statistics import numbered_returns


def tilted_weights(episodes: TensorDictBase, tilt: float) -> Tensor:
    """exp(κ q) of each step, with q the rank of its episode's return, from 0, worst, to 1, best.

    A model of the data's actions given the return spreads itself over all the data, and where
    one return tells little from another, as at the start of an episode, it acts like the most of
    them. Drawn so, it has most to say of what is asked for, and still learns what the rest of the
    data did (arXiv 2306.13085 weights episodes by their return for the same reason). Ranks need no
    unit; episodes of the same return have the same weight.

    Args:
        episodes: dataset [N] with ``episode`` and rewards.
        tilt: κ; 0 weights all alike.

    Returns:
        Weights [N] float64, above 0 and up to 1.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_td.data.return_tilt import tilted_weights
        >>> data = TensorDict(
        ...     episode=torch.tensor([4, 4, 7, 7]),
        ...     next=TensorDict(reward=torch.tensor([[1.0], [0.0], [1.0], [1.0]]), batch_size=[4]),
        ...     batch_size=[4],
        ... )
        >>> tilted_weights(data, 5.0).log()
        tensor([-5., -5.,  0.,  0.], dtype=torch.float64)
    """
    returns, number = numbered_returns(episodes)
    ordered = returns.sort().values
    below = torch.searchsorted(ordered, returns)
    upto = torch.searchsorted(ordered, returns, right=True)
    rank = (below + upto - 1).double() / (2 * max(1, len(returns) - 1))  # of equals their mean
    return torch.exp(tilt * (rank - 1))[number]
