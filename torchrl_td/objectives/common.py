"""Base class of the losses: reads a window's entries and reduces errors under its masks."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar, Literal, NoReturn, get_args

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor, nn
from torchrl.objectives.common import LossModule

from torchrl_td.errors import InputError
from torchrl_td.modules.common import check_shape, get_entry, per_step

Reduction = Literal["none", "mean", "sum"]
# Written by TorchRL's SliceSampler with pad_output=True: False marks steps that are repeated.
_COLLECTOR_MASK = ("collector", "mask")
# What entries have after the axes of the batch, by the names of their keys; others have one more.
_AXES: dict[str, tuple[str | int, ...]] = {
    "observation": ("O",),
    "next_observation": ("O",),
    "end": ("O",),
    "action": ("A",),
    "draft": ("H", "O"),
    "members": ("M", 3),
    **dict.fromkeys(("returns_to_go", "next_returns_to_go", "condition"), (1,)),
    **dict.fromkeys(("reward", "discount", "outcome"), (1,)),
}


def hide_masked(mask: Tensor, *tensors: Tensor) -> list[Tensor]:
    """The tensors [..., D] with zeros where the mask [...] is False.

    Hiding the errors alone is not enough: a NaN in padding would still reach the gradient,
    where it is multiplied by zero and stays NaN.

    Args:
        mask: bool, shape [...], True for real entries.
        tensors: each of shape [..., D], with a D of its own.

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


def repeat_last_real(mask: Tensor, plan: Tensor) -> Tensor:
    """The plan with its last real state in place of padding, and zeros before the first real one.

    Args:
        mask: bool, shape [..., H], True for real states.
        plan: shape [..., H, O].

    Returns:
        Shape [..., H, O].

    Examples:
        >>> import torch
        >>> from torchrl_td.objectives.common import repeat_last_real
        >>> plan = torch.tensor([[[1.0], [2.0], [torch.nan]]])
        >>> repeat_last_real(torch.tensor([[True, True, False]]), plan).flatten()
        tensor([1., 2., 2.])
    """
    position = torch.arange(mask.shape[-1], device=mask.device)
    last = position.where(mask, 0).cummax(-1).values  # [..., H]
    (plan,) = hide_masked(mask, plan)
    return plan.take_along_dim(last.unsqueeze(-1), -2)


def _usual(shapes: list[torch.Size]) -> torch.Size:
    """The shape of most, and of as many the longer, for what is wrong mostly lacks an axis.

    >>> _usual([torch.Size([4]), torch.Size([4, 8])])
    torch.Size([4, 8])
    """
    usual, most = shapes[0], 0
    for shape in shapes:  # by a loop, for `max` with a key is not compiled where sizes are dynamic
        number = sum(shape == other for other in shapes)
        if number > most or (number == most and len(shape) > len(usual)):
            usual, most = shape, number
    return usual


class WindowLoss(LossModule):
    """A loss of one network on a batch of windows, without a value estimator.

    The steps that count are those where the window's ``mask`` and the entry that TorchRL's
    ``loss_mask_key`` names are both True, each of shape [..., T] or [..., T, 1]. Where a window has
    neither, all count. With ``loss_mask_key="auto"``, the default, TorchRL's own masks are found.

    A subclass declares ``_AcceptedKeys``, ``default_keys``, ``default_out_keys`` and the
    annotations that TorchRL asks for: ``<name>``, ``<name>_params``, ``target_<name>_params``.

    Args:
        network (nn.Module): the module to be trained.
        name (str): name under which the loss keeps it.
        reduction (str, optional): ``"mean"``, which ``None`` stands for, ``"sum"`` or ``"none"``.
        create_target_params (bool): whether target parameters are kept.

    Raises:
        InputError: if the reduction is unknown.
    """

    optional_keys: ClassVar[tuple[str, ...]] = ("mask", "next_known")
    """Names of the keys that a window may lack, and that are not among ``in_keys``."""
    default_out_keys: ClassVar[tuple[str, ...]] = ()
    """The entries written, the loss first."""
    module_reads: ClassVar[tuple[str | None, ...]] = ()
    """Names of the keys that are at first the module's ``in_keys``; ``None`` for one apart."""
    module_writes: ClassVar[str | None] = None
    """Name of the key that is at first the module's first ``out_keys``."""

    def __init__(
        self,
        network: nn.Module,
        name: str,
        reduction: Reduction | None,
        *,
        create_target_params: bool = False,
    ) -> None:
        super().__init__()
        reduction = reduction or "mean"
        if reduction not in get_args(Reduction):
            allowed = ", ".join(get_args(Reduction))
            raise InputError(f"unknown reduction {reduction!r}; allowed are {allowed}")
        self.reduction = reduction
        self.convert_to_functional(network, name, create_target_params=create_target_params)
        self.out_keys = list(self.default_out_keys)
        self.set_keys(**self._keys_of(network))

    def _keys_of(self, network: Any) -> dict[str, NestedKey]:
        """The module's own keys by name, and those of what follows under ``"next"``."""
        pairs = zip(self.module_reads, network.in_keys, strict=False)
        keys = {name: unravel_key(key) for name, key in pairs if name is not None}
        accepted = {field.name for field in fields(self._AcceptedKeys)}
        for name, key in list(keys.items()):
            if f"next_{name}" in accepted:
                keys.setdefault(f"next_{name}", unravel_key(("next", key)))
        if self.module_writes is not None:
            keys[self.module_writes] = network.out_keys[0]
        return keys

    def make_value_estimator(self, value_type: Any = None, **hyperparams: Any) -> NoReturn:
        """There is none: the loss regresses on the data's own returns."""
        raise NotImplementedError(f"{type(self).__name__} learns no value by an estimator")

    @property
    def keyword_keys(self) -> list[NestedKey]:
        """The keys of the entries that can be given as tensors: ``in_keys`` and the optional."""
        return [*self.in_keys, *self._optional]

    def _forward_value_estimator_keys(self, **kwargs) -> None:
        """Takes renamed keys over; there is no value estimator whose keys would have to follow."""
        names = [field.name for field in fields(self._AcceptedKeys)]
        keys = {name: getattr(self.tensor_keys, name) for name in names}
        self.in_keys = [key for name, key in keys.items() if name not in self.optional_keys]
        self._optional = [key for name, key in keys.items() if name in self.optional_keys]

    def _read(self, tensordict: TensorDictBase, *names: str, **sizes: int | None) -> list[Tensor]:
        """The entries [..., T, D] of the keys that have these names, all of the same steps.

        Args:
            tensordict: the batch.
            *names: of the keys.
            **sizes: of the axes O, A, H and M, where the network tells; without, the first entry
                that has such an axis says its size for the others.

        Raises:
            InputError: if an entry is of another shape.
            KeyError: if it is missing.
        """
        keys = [getattr(self.tensor_keys, name) for name in names]
        entries = [get_entry(self, tensordict, key) for key in keys]
        axes = [_AXES.get(name, (name,)) for name in names]
        batches = [x.shape[: -len(own)] for x, own in zip(entries, axes, strict=True)]
        steps = _usual(batches)
        known: dict[str | int, int] = {k: n for k, n in sizes.items() if n is not None}
        told: dict[str | int, NestedKey] = {}
        for key, entry, own in zip(keys, entries, axes, strict=True):
            like = [told[axis] for axis in own if axis in told]
            why = f"as of {like[0]!r}" if like else ""
            check_shape(key, entry, [*steps, *(known.get(axis, axis) for axis in own)], why)
            for axis, size in zip(own, entry.shape[len(steps) :], strict=True):
                if isinstance(axis, str) and axis not in known:
                    known[axis], told[axis] = size, key
        return entries

    def _check_width(self, name: str, entry: Tensor, width: int) -> None:
        """Raises where the entry is of another width than what the network predicts of it."""
        check_shape(getattr(self.tensor_keys, name), entry, [*entry.shape[:-1], width])

    def _masks(self, tensordict: TensorDictBase, like: Tensor) -> tuple[Tensor, Tensor]:
        """Which steps [..., T] of the entry ``like`` [..., T, D] are real, and which count.

        What is not real is padding, which no network may look at; a real step may still not count
        in the loss.
        """
        real = like.new_ones(like.shape[:-1], dtype=torch.bool)
        counted = real
        for key in (self.tensor_keys.mask, *self._loss_mask_keys()):
            if key == self.loss_mask_key:
                mask = get_entry(self, tensordict, key)
            elif (mask := tensordict.get(key, None)) is None:
                continue
            mask = per_step(mask, like, key)
            counted = counted & mask
            if key in (self.tensor_keys.mask, _COLLECTOR_MASK):
                real = real & mask
        return real, counted

    def _known(self, tensordict: TensorDictBase, counted: Tensor, like: Tensor) -> Tensor:
        """Of the steps that count [..., T] those whose next state, ``like``, is known."""
        key = self.tensor_keys.next_known
        known = tensordict.get(key, None)
        return counted if known is None else counted & per_step(known, like, key)

    def _reduced(self, error: Tensor, counted: Tensor) -> Tensor:
        """The error [..., T, D] reduced over the steps that count [..., T].

        Without a reduction it keeps its shape, so that it stays aligned with the batch.
        """
        if self.reduction == "none":
            return error.where(counted.unsqueeze(-1), 0.0)
        return self._reduce_loss(error, mask=counted)
