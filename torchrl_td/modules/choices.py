"""Actions that are choices: which of the scores of a network is taken, and how far off they are."""

from __future__ import annotations

import torch
from torch import Tensor


def chosen(scores: Tensor) -> Tensor:
    """A 1 at the highest of scores [..., C]; NaN where one is not finite.

    >>> chosen(torch.tensor([[0.2, 0.9, 0.1]]))
    tensor([[0., 1., 0.]])
    """
    places = torch.arange(scores.shape[-1], device=scores.device)
    # Zero times a number that is not finite is NaN, by which the actor notices it.
    return (places == scores.argmax(-1, keepdim=True)).to(scores.dtype) + 0 * scores


def action_error(output: Tensor, action: Tensor, choices: bool) -> Tensor:
    """Squared error [..., A] of actions, or the cross entropy [..., 1] of choices.

    Args:
        output: of a network, actions or the scores of choices [..., A].
        action: the data's [..., A]; of choices a 1 at the one made, or zeros, which count 0.
        choices: whether it is choices.

    >>> action_error(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]), True)
    tensor([[0.6931]])
    """
    if not choices:
        return (output - action).square()
    return -(torch.log_softmax(output, -1) * action).sum(-1, keepdim=True)
