"""What the losses share: reduction of errors under a mask."""

from __future__ import annotations

from torch import Tensor

from torchrl_td.errors import TDError

REDUCTIONS = ("none", "mean", "sum")


def check_reduction(reduction: str) -> str:
    """Returns the reduction or raises a :class:`~torchrl_td.errors.TDError`."""
    if reduction not in REDUCTIONS:
        raise TDError(f"unknown reduction {reduction!r}; allowed are {', '.join(REDUCTIONS)}")
    return reduction


def hide_masked(mask: Tensor, *tensors: Tensor) -> list[Tensor]:
    """The tensors [B, T, D] with zeros where the mask [B, T] is False.

    Hiding the errors alone is not enough: a NaN in padding would still reach the gradient,
    where it is multiplied by zero and stays NaN.
    """
    mask = mask.unsqueeze(-1)
    return [tensor.where(mask, 0.0) for tensor in tensors]


def reduce_masked(error: Tensor, mask: Tensor, reduction: str) -> Tensor:
    """Reduces errors over the entries whose mask is True.

    Args:
        error: shape [B, T, D].
        mask: bool, shape [B, T].
        reduction: ``"mean"`` over valid entries and D, ``"sum"``, or ``"none"``, which
            returns [B, T, D] with zeros where masked.
    """
    weight = mask.unsqueeze(-1).to(error.dtype)
    # where, not a product: a NaN in padding must not reach the loss.
    error = error.where(mask.unsqueeze(-1), 0.0)
    if reduction == "none":
        return error
    total = error.sum()
    return total if reduction == "sum" else total / (weight.sum() * error.shape[-1]).clamp(min=1)
