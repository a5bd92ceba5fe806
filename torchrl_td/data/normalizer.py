"""What goes between environment and networks: finite numbers, normalised where they are states."""

from __future__ import annotations

import math
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn

from torchrl_td.data.statistics import suggested_returns_scale
from torchrl_td.data.validation import warn_once
from torchrl_td.errors import InputError

# A dimension is taken as constant, since dividing by its spread would blow rounding up, where
# that is less than this share of the others' spread,
_CONSTANT = 1e-6
# or than what float32 can tell apart at the distance from 0 that it has.
_RESOLUTION = torch.finfo(torch.float32).eps

_FAR = 100.0  # from 1, for scaled returns-to-go: several times what networks are fed well with
# Standard deviations, and largest mean, of actions that are learnt as they are: networks start with
# outputs and errors of about 1, so of smaller ones they learn little, and larger ones leave the
# others nothing of the loss.
_ACTIONS = (0.02, 10.0)
# Of half an action's range: what changes by less is as likely noise on an actuator that is not
# used, and not blown up beyond it.
_OF_RANGE = 0.1
_OVERFLOWS = 1e9  # scaled returns-to-go whose loss and its gradient soon leave float32


class Normalizer(nn.Module):
    """Maps states to zero mean and unit variance and returns-to-go to about 1.

    Actions are left as they are, but for entries whose units are far from 1.

    Args:
        loc: mean of the states, shape [O].
        scale: standard deviation of the states, shape [O]. It is replaced by 1 in dimensions
            that are constant but for rounding: whose scale is less than 1e-6 of the others' (of
            their upper quartile), whatever the units, or less than float32 resolves at ``loc``.
        returns_scale: what returns-to-go are divided by.
        action_loc: what is taken off the actions, shape [A]; ``None`` leaves them as they are.
        action_scale: what they are divided by then, shape [A]; given with ``action_loc``.

    Raises:
        InputError: if a value or ``returns_scale`` is not finite, a scale is negative, those of
            actions and returns not positive, or a mean and its scale are no vectors of floats of
            one length.

    Examples:
        >>> import torch
        >>> from torchrl_td.data import Normalizer
        >>> normalizer = Normalizer(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0]), 100.0)
        >>> normalizer.normalize(torch.tensor([3.0, 2.5]))
        tensor([1.0000, 0.5000])
        >>> normalizer.scale_returns(torch.tensor([50.0]))
        tensor([0.5000])
    """

    loc: Tensor
    scale: Tensor
    returns_scale: Tensor
    action_loc: Tensor | None
    action_scale: Tensor | None

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        returns_scale: float = 1.0,
        action_loc: Tensor | None = None,
        action_scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        _check_units("", loc, scale)
        if action_loc is not None or action_scale is not None:
            _check_units("action_", action_loc, action_scale)
        if not 0 < returns_scale < float("inf"):
            raise InputError(f"returns_scale must be positive and finite, got {returns_scale}")
        self.register_buffer("loc", loc.float())
        self.register_buffer("scale", torch.where(_changing(loc, scale), scale, 1.0).float())
        self.register_buffer("returns_scale", torch.tensor(float(returns_scale)))
        # A state dict says nothing of None: weights from before there were these still fit.
        self.register_buffer("action_loc", action_loc)
        self.register_buffer("action_scale", action_scale)

    @classmethod
    def fit(
        cls,
        episodes: TensorDictBase,
        returns_scale: float = 1.0,
        action_bounds: tuple[Tensor, Tensor] | None = None,
    ) -> Normalizer:
        """Fits mean and standard deviation on the ``observation`` of a dataset [N].

        Entries of the ``action`` that are numbers are normalised likewise where their standard
        deviation is below 0.02 or above 10, or their mean is above 10. Where the lowest and the
        highest actions [A] are known, none is divided by less than a tenth of half their range (or
        than 1, if that is less).

        A warning names dimensions that change, but too little to be told from constant ones, and
        a scale that does not bring the ``returns_to_go`` near 1.

        Raises:
            InputError: for no data, or a scale that leaves returns too large to compute with.
        """
        if not len(episodes["observation"]):
            raise InputError("there are no steps to fit the normaliser on")
        _check_returns_scale(float(episodes["returns_to_go"].abs().max()), returns_scale)
        observation = episodes["observation"].double()
        loc, scale = observation.mean(0), observation.std(0, correction=0)
        small = (scale > _RESOLUTION * loc.abs()) & ~_changing(loc, scale)
        if small.any():
            dimensions = ", ".join(map(str, torch.nonzero(small).flatten().tolist()))
            warn_once(
                f"observation changes in dimension {dimensions} by less than {_CONSTANT:g} of what "
                "others change by, so it is taken as constant there; if it matters, record it in "
                "other units"
            )
        units = _action_units(episodes.get("action", None), action_bounds)
        return cls(loc, scale, returns_scale, *units)

    def normalize(self, observation: Tensor) -> Tensor:
        """States [..., O] in the environment's units to normalised ones."""
        return (observation - self.loc) / self.scale

    def denormalize(self, observation: Tensor) -> Tensor:
        """Normalised states [..., O] to the environment's units."""
        return observation * self.scale + self.loc

    def scale_returns(self, returns_to_go: Tensor) -> Tensor:
        """Returns-to-go [..., 1] in units of reward to scaled ones."""
        return returns_to_go / self.returns_scale

    def normalize_action(self, action: Tensor) -> Tensor:
        """Actions [..., A] in the environment's units to those that are learnt."""
        if self.action_loc is None or self.action_scale is None:
            return action
        return (action - self.action_loc) / self.action_scale

    def denormalize_action(self, action: Tensor) -> Tensor:
        """Actions [..., A] as they were learnt to the environment's units."""
        if self.action_loc is None or self.action_scale is None:
            return action
        return action * self.action_scale + self.action_loc

    def apply_to(self, episodes: TensorDictBase) -> TensorDictBase:
        """A copy of a dataset [N] with normalised states and actions and scaled returns-to-go.

        States under ``"played"``, which were told a goal that is played, are normalised too.
        """
        out = episodes.copy()
        for key in ("observation", ("next", "observation"), ("played", "observation")):
            if key in out.keys(True):
                out[key] = self.normalize(out[key])
        for key in ("returns_to_go", ("next", "returns_to_go")):
            out[key] = self.scale_returns(out[key])
        if self.action_loc is not None:
            out["action"] = self.normalize_action(out["action"])
        return out


def check_floats(key: NestedKey, value: Tensor, unread: Tensor | None = None) -> Tensor:
    """The entry [B, ...] in single precision.

    Args:
        key: what errors call it.
        value: the entry.
        unread: bool [B, 1], rows that may hold anything; ``None`` for no row.

    Raises:
        InputError: if it holds no floats or, on the CPU, one that is not finite. (On a GPU the
            check would wait for the device; there a NaN gives a NaN action.)

    >>> check_floats("observation", torch.zeros(2, 3, dtype=torch.float64)).dtype
    torch.float32
    >>> check_floats("observation", torch.tensor([0.0, torch.nan]))
    Traceback (most recent call last):
    torchrl_td.errors.InputError: 'observation' holds NaN or Inf; the simulation diverged or was fed
    one
    """
    if not value.is_floating_point():
        raise InputError(
            f"{key!r} is {value.dtype}, but a float is needed; append to the environment "
            f"DTypeCastTransform({value.dtype}, torch.float32, in_keys=[{key!r}])"
        )
    # The sum first, for it is the faster check; it may overflow where every value is finite.
    if _readable(value) and not math.isfinite(value.sum()):
        finite = torch.isfinite(value)
        if unread is not None:
            finite |= unread.view(-1, *[1] * (value.ndim - 1))
        if not bool(finite.all()):
            raise InputError(f"{key!r} holds NaN or Inf; the simulation diverged or was fed one")
    return value.float()


def check_action(key: NestedKey, action: Tensor) -> Tensor:
    """The action [B, A], which a finite observation that is far too large would make NaN.

    Args:
        key: of the observation, for the message.
        action: as the networks give it.

    Raises:
        InputError: on the CPU, as :func:`check_floats`.
    """
    if _readable(action) and not math.isfinite(action.sum()):
        raise InputError(
            f"{key!r} is so large that the action overflows; the simulation diverged, or the "
            f"observation is in other units than the data"
        )
    return action


def _check_units(kind: str, loc: Any, scale: Any) -> None:
    """Raises where a mean and a standard deviation cannot be those of the same dimensions."""
    for name, value in ((f"{kind}loc", loc), (f"{kind}scale", scale)):
        if not isinstance(value, Tensor) or value.ndim != 1 or not value.is_floating_point():
            got = type(value).__name__
            if isinstance(value, Tensor):
                got = f"{value.dtype} of shape {list(value.shape)}"
            raise InputError(f"{name} must be a vector of floats, a torch.Tensor, got {got}")
        if not torch.isfinite(value).all():
            raise InputError(f"{name} of the normalizer is not finite; check the data for NaN")
    if loc.shape != scale.shape:
        raise InputError(f"{kind}scale has {len(scale)} numbers, but {kind}loc has {len(loc)}")
    # A state's may be 0, of a constant, which becomes 1.
    if not (scale > 0 if kind else scale >= 0).all():
        needed = "be positive" if kind else "not be negative"
        raise InputError(f"{kind}scale must {needed}, got {scale.min():g}")


def _action_units(
    action: Tensor | None, bounds: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Mean and standard deviation of actions [N, A], 0 and 1 where they are learnt as they are.

    >>> _action_units(torch.tensor([[1.0, 100.0, 7.0], [-1.0, 300.0, 7.0]]))
    (tensor([  0., 200.,   0.]), tensor([  1., 100.,   1.]))
    >>> _action_units(torch.tensor([[0.1, 0.5], [-0.1, -0.5]]))
    (None, None)
    >>> _action_units(torch.tensor([[1e-4], [-1e-4]]), (-torch.ones(1), torch.ones(1)))
    (tensor([0.]), tensor([0.1000]))
    """
    if action is None or action.dtype == torch.bool:  # none, or choices
        return None, None
    loc, scale = action.double().mean(0), action.double().std(0, correction=0)
    changing, (small, large) = _changing(loc, scale), _ACTIONS
    far = (loc.abs() > large) | (changing & ((scale < small) | (scale > large)))
    if not far.any():
        return None, None
    if bounds is not None:
        half = ((bounds[1] - bounds[0]) / 2).to(scale)
        least = torch.where(torch.isfinite(half), _OF_RANGE * half, 0.0).clamp(max=1.0)
        scale = torch.maximum(scale, least)
    loc = torch.where(far, loc, 0.0).float()
    return loc, torch.where(far & changing, scale, 1.0).float()


def _check_returns_scale(largest: float, scale: float) -> None:
    """Warns of a scale that does not bring the largest returns-to-go to about 1 to 4."""
    if largest == 0 or not scale > 0 or 1 / _FAR <= largest / scale <= _FAR:
        return
    message = (
        f"task.returns_scale={scale:g} makes {largest / scale:.3g} of the data's largest "
        f"returns-to-go, {largest:.3g}; take {suggested_returns_scale(largest):g}, for 1 to 4"
    )
    if largest / scale > _OVERFLOWS:
        raise InputError(message)
    warn_once(message)


def _changing(loc: Tensor, scale: Tensor) -> Tensor:
    """Which dimensions of a mean and standard deviation [O] are more than rounding, [O] bool."""
    changing = scale > (_RESOLUTION * loc.abs()).clamp(min=torch.finfo(torch.float32).tiny)
    if not changing.any():
        return changing
    usual = scale[changing].quantile(0.75, interpolation="nearest")
    return changing & (scale > _CONSTANT * usual)


def _readable(value: Tensor) -> bool:
    """Whether a value can be looked at now: not while a program is traced, nor under ``vmap``."""
    if value.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(value)
