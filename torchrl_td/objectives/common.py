"""What the losses share: reading a window's entries, and reducing errors under its mask."""

from __future__ import annotations

from dataclasses import fields
from typing import ClassVar

from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.objectives.common import LossModule

from torchrl_td.errors import InputError

REDUCTIONS = ("none", "mean", "sum")


def hide_masked(mask: Tensor, *tensors: Tensor) -> list[Tensor]:
    """The tensors [B, T, D] with zeros where the mask [B, T] is False.

    Hiding the errors alone is not enough: a NaN in padding would still reach the gradient,
    where it is multiplied by zero and stays NaN.

    Args:
        mask: bool, shape [B, T], True for real entries.
        tensors: each of shape [B, T, D], with a D of its own.

    Returns:
        As many tensors of the same shapes.

    Examples:
        >>> import torch
        >>> from torchrl_td.objectives.common import hide_masked
        >>> (x,) = hide_masked(torch.tensor([[True, False]]), torch.tensor([[[1.0], [torch.nan]]]))
        >>> x.flatten()
        tensor([1., 0.])
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

    Returns:
        A number, 0 where nothing is real, or [B, T, D].

    Examples:
        >>> import torch
        >>> from torchrl_td.objectives.common import reduce_masked
        >>> error = torch.tensor([[[1.0], [3.0], [torch.nan]]])
        >>> mask = torch.tensor([[True, True, False]])
        >>> reduce_masked(error, mask, "mean")
        tensor(2.)
    """
    # where, not a product: a NaN in padding must not reach the loss.
    error = error.where(mask.unsqueeze(-1), 0.0)
    if reduction == "none":
        return error
    total = error.sum()
    return total if reduction == "sum" else total / (mask.sum() * error.shape[-1]).clamp(min=1)


class WindowLoss(LossModule):
    """A loss of one network on a batch of windows, without a value estimator.

    A subclass declares ``_AcceptedKeys``, whose last key but for ``optional_keys`` is that of the
    mask, ``default_keys``, ``out_keys`` and the annotations that TorchRL asks for: ``<name>``,
    ``<name>_params`` and ``target_<name>_params``.

    Args:
        network (nn.Module): the module to be trained.
        name (str): name under which the loss keeps it.
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"``.
        create_target_params (bool): whether target parameters are kept.

    Raises:
        InputError: if the reduction is unknown.
    """

    optional_keys: ClassVar[tuple[str, ...]] = ()
    """Names of the keys that a window may lack, and that are not among ``in_keys``."""

    def __init__(
        self, network: nn.Module, name: str, reduction: str, *, create_target_params: bool = False
    ) -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise InputError(
                f"unknown reduction {reduction!r}; allowed are {', '.join(REDUCTIONS)}"
            )
        self.reduction = reduction
        self.convert_to_functional(network, name, create_target_params=create_target_params)

    @property
    def in_keys(self) -> list[NestedKey]:
        """The keys read, in the order of ``_AcceptedKeys``."""
        names = [field.name for field in fields(self._AcceptedKeys)]
        return [getattr(self.tensor_keys, n) for n in names if n not in self.optional_keys]

    @in_keys.setter
    def in_keys(self, value: list[NestedKey]) -> None:
        raise AttributeError("rename keys with set_keys")

    def _forward_value_estimator_keys(self, **kwargs) -> None:
        """There is no value estimator whose keys would have to follow."""

    def _read(self, tensordict: TensorDictBase) -> list[Tensor]:
        """The entries of ``in_keys`` [B, T, ...]; the mask [B, T] comes last."""
        return [tensordict.get(key) for key in self.in_keys]

    def _hide_unknown(self, error: Tensor, tensordict: TensorDictBase) -> Tensor:
        """The error [B, T, D] of what depends on the next state, 0 where that is not known."""
        known = tensordict.get(self.tensor_keys.next_known, None)  # [B, T, 1]
        return error if known is None else error.where(known.bool(), 0.0)
