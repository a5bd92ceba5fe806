"""The model that settings describe, and the trained one in a checkpoint, with no dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchrl_td.baselines import BASELINES
from torchrl_td.checkpoint.build import build_model
from torchrl_td.checkpoint.contents import load_about, load_payload
from torchrl_td.checkpoint.folder import find_checkpoint
from torchrl_td.config import Config, check_config, plan_horizon
from torchrl_td.data.normalizer import Normalizer
from torchrl_td.errors import InputError, check_device, first_line
from torchrl_td.modules.trajectory_diffuser import Scales


def make_model(
    config: Config,
    normalizer: Normalizer,
    scales: Scales,
    action_low: Tensor,
    action_high: Tensor,
    choices: bool = False,
) -> nn.Module:
    """The untrained model of a run's algorithm.

    Args:
        config: the run's settings.
        normalizer: fitted on the dataset.
        scales: likewise.
        action_low: lowest actions [A].
        action_high: highest actions [A].
        choices: whether actions are choices among A.

    Raises:
        InputError: the algorithm acts by numbers alone.
    """
    baseline = BASELINES.get(config.algorithm.name)
    if baseline is None:
        widths = (normalizer.loc.shape[0], action_low.shape[0])
        return build_model(config, *widths, normalizer, scales, choices)
    if choices and not baseline.chooses:
        choosing = ", ".join(name for name, known in BASELINES.items() if known.chooses)
        raise InputError(
            f"algorithm={config.algorithm.name} acts by numbers, and these actions are "
            f"{len(action_low)} choices; allowed are trajectory_diffuser, {choosing}"
        )
    model: Any = baseline.build(config, normalizer, action_low, action_high)
    model.choices = choices
    return model


def load_model(path: str | Path, device: torch.device | str = "cpu") -> tuple[Any, dict[str, Any]]:
    """Rebuilds the trained model (with averaged weights where there are) from a checkpoint.

    Returns:
        The model on ``device``, in evaluation mode, and the checkpoint's ``about``.

    Raises:
        InputError: as :func:`find_checkpoint` and :func:`load_about`, or there is no such device.
    """
    check_device(device, meta=True)  # of which shapes can be asked
    path = find_checkpoint(path)
    about = load_about(path)
    weights = load_payload(path, "planner", "cpu")
    try:
        # Kept in half precision, they are computed with in full.
        half = {name: value for name, value in weights.items() if value.dtype == torch.float16}
        weights = {**weights, **{name: value.float() for name, value in half.items()}}
        # What the settings claim is compared with the weights before memory is taken for it.
        units = "normalizer.action_loc" in weights
        _check_shapes(_empty_model(about, "meta", units), weights)
        model = _empty_model(about, "cpu", units)
        model.load_state_dict(dict(weights))
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"the checkpoint {path} does not fit its settings: {first_line(error)}"
        ) from error
    return model.to(device).eval(), about


def _empty_model(about: Mapping[str, Any], device: str, action_units: bool) -> nn.Module:
    """Untrained; ``action_units`` where its actions are normalised."""
    config, observation_dim = check_config(about["config"]), about["observation_dim"]
    with _single_precision():
        normalizer = Normalizer(torch.zeros(observation_dim), torch.ones(observation_dim))
        scales = Scales.empty(plan_horizon(config), observation_dim)
    with torch.device(device), _single_precision():
        low, high = (torch.tensor(about[f"action_{end}"]).float() for end in ("low", "high"))
        if action_units:
            normalizer.action_loc, normalizer.action_scale = (
                torch.zeros_like(low),
                torch.ones_like(high),
            )
        return make_model(config, normalizer, scales, low, high, "action_choices" in about)


@contextmanager
def _single_precision() -> Iterator[None]:
    """Makes numbers as training makes them, whatever the caller's program makes by default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _check_shapes(model: nn.Module, weights: Mapping[str, Any]) -> None:
    expected = model.state_dict()
    for name in sorted(expected.keys() ^ weights.keys(), key=str):
        raise ValueError(f"{name} is {'missing' if name in expected else 'unknown'}")
    for name, value in expected.items():
        if weights[name].shape != value.shape or weights[name].dtype != value.dtype:
            raise ValueError(
                f"{name} is {tuple(weights[name].shape)} {weights[name].dtype}, needed are "
                f"{tuple(value.shape)} {value.dtype}"
            )
