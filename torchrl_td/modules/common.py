"""Shared by the TensorDictModules: reading and writing entries of any batch shape by key."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase, dispatch
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.modules import MLP

from torchrl_td.errors import InputError
from torchrl_td.networks.modulated_mlp import ModulatedMLP


def dispatched(forward: Callable, auto_batch_size: bool = False) -> Callable:
    """TensorDict's ``dispatch``, with a signature that ``torch.export`` finds tensors in."""
    wrapper = dispatch(auto_batch_size=auto_batch_size)(forward)
    kinds = inspect.Parameter
    wrapper.__signature__ = inspect.Signature(
        [
            kinds("self", kinds.POSITIONAL_OR_KEYWORD),
            kinds("tensordict", kinds.POSITIONAL_OR_KEYWORD, default=None),
            kinds("tensors", kinds.VAR_POSITIONAL),
            kinds("keywords", kinds.VAR_KEYWORD),
        ]
    )
    return wrapper


class KeyedModule(TensorDictModuleBase):
    """Reads the entries of ``in_keys`` and writes those of ``out_keys``; ``"_"`` writes nothing."""

    def read_entries(self, tensordict: TensorDictBase) -> list[Tensor]:
        """The entries of ``in_keys``.

        Raises:
            KeyError: if one is missing.
        """
        return [get_entry(self, tensordict, key) for key in self.in_keys]

    def write_entries(self, tensordict: TensorDictBase, *values: Tensor) -> TensorDictBase:
        """Writes the values, in the order of the ``out_keys`` that the module was made with."""
        for key, value in zip(self.out_keys_source, values, strict=False):
            if key != "_" and key in self.out_keys:
                tensordict.set(key, value)
        return tensordict


def get_entry(reader: object, tensordict: TensorDictBase, key: NestedKey) -> Tensor:
    """An entry that must be there.

    Raises:
        KeyError: if it is not; the message names it and who reads it.

    >>> from tensordict import TensorDict
    >>> get_entry("planner", TensorDict(), "observation")
    Traceback (most recent call last):
    KeyError: "str found no 'observation'; add it, or rename the keys that are read"
    """
    value = tensordict.get(key, None)
    if value is None:
        raise KeyError(
            f"{type(reader).__name__} found no {key!r}; add it, or rename the keys that are read"
        )
    return value


def check_shape(key: NestedKey, value: Tensor, wanted: Sequence[int | str], why: str = "") -> None:
    """Checks an entry's shape, which would else broadcast against the others' without a word.

    Shapes alone are compared, so that programs are traced and captured as they are.

    Args:
        key: what errors call the entry.
        value: the entry.
        wanted: the size of each axis, or its letter where any size will do.
        why: where that is from.

    Raises:
        InputError: if it is of another shape.

    >>> check_shape("action", torch.zeros(8, 1), [8, 2])
    Traceback (most recent call last):
    torchrl_td.errors.InputError: 'action' has shape [8, 1], where [8, 2] is wanted
    """
    fits = value.ndim == len(wanted) and all(
        isinstance(want, str) or size == want
        for size, want in zip(value.shape, wanted, strict=True)
    )
    if not fits:
        needed = ", ".join(map(str, wanted))
        raise InputError(
            f"{key!r} has shape {list(value.shape)}, where [{needed}] is wanted{why and f', {why}'}"
        )


def inverse(scale: Tensor) -> Tensor:
    """1 / scale, and 0 where the scale is 0, as of a dimension that never changes.

    >>> import torch
    >>> inverse(torch.tensor([2.0, 0.0]))
    tensor([0.5000, 0.0000])
    """
    return torch.where(scale > 0, 1 / scale.clamp(min=1e-12), 0.0)


def last_width(network: nn.Module) -> int | None:
    """Numbers that a network gives, as far as its last layer tells.

    >>> last_width(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5))), last_width(nn.Identity())
    (5, None)
    """
    *_, last = [network, *network.children()]
    return getattr(last, "out_features", None)


def first_width(network: nn.Module) -> int | None:
    """Numbers that a network reads, as far as its first layer tells.

    >>> first_width(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5))), first_width(nn.Identity())
    (3, None)
    """
    layer: nn.Module = network
    # What has a way of its own through its layers may give the first one anything.
    if type(network).forward in (nn.Sequential.forward, MLP.forward) and len(network):  # type: ignore[arg-type]
        layer = network[0]  # type: ignore[index]
    if not isinstance(layer, nn.Linear | ModulatedMLP):
        return None
    return layer.in_features or None  # 0 where the first input is yet to make it


def per_step(mask: Tensor, like: Tensor, key: NestedKey) -> Tensor:
    """A mask [..., T] or [..., T, 1] as bool [..., T].

    Args:
        mask: the mask.
        like: what it masks, shape [..., T, D].
        key: what errors call the mask.

    Raises:
        InputError: if it is of another shape.

    >>> import torch
    >>> per_step(torch.ones(2, 2, 1), torch.zeros(2, 2, 3), "mask").shape
    torch.Size([2, 2])
    """
    steps = like.shape[:-1]
    if mask.shape == (*steps, 1):
        mask = mask.squeeze(-1)
    if mask.shape != steps:
        raise InputError(
            f"{key!r} has shape {list(mask.shape)}, but the batch's steps are {list(steps)}"
        )
    return mask.bool()
