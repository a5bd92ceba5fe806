"""A checkpoint whose weights a new run starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchrl import torchrl_logger

from torchrl_td.checkpoint.contents import load_about, load_payload
from torchrl_td.checkpoint.folder import find_checkpoint
from torchrl_td.config import PLANNERS, Config, check_config, reads, to_dict
from torchrl_td.data.normalizer import Normalizer
from torchrl_td.errors import InputError

_PARTS = ("generator", "refiner", "inverse_dynamics", "critic", "value", "returns_limit")
# What says which networks the weights are of, and what they read and write.
_NETWORKS = (
    *(
        f"algorithm.{name}"
        for name in (
            "hidden_dims",
            "members",
            "context",
            "width",
            "layers",
            "heads",
            "normalize_rewards",
        )
    ),
    *(
        "generator.",
        "refiner.",
        "inverse_dynamics.",
        "critic.",
        "value.enabled",
        "value.hidden_dims",
        "value.members",
        "value.symlog_unit",
        "returns_limit.enabled",
        "returns_limit.hidden_dims",
    ),
)
# Of these sections, what only training reads.
_TRAINING = ("refiner.condition_dropout", "refiner.max_step", "refiner.batch_size")
_BOUNDS = ("action_low", "action_high", "low", "high")  # buffers that are the environment's
_CRITICS = ("qvalue_network_params.", "target_qvalue_network_params.")  # of which a loss keeps two


@dataclass
class Start:
    """Weights to start from, and whether their normaliser and scales are kept.

    Attributes:
        weights: state dict of the model as it acts.
        losses: state dict of each of its loss modules.
        keep: whether normaliser and scales are the checkpoint's, or fitted on the new data.
        units: of the rewards that its critics learned in, by name, where they are kept.
        origin: which checkpoint it is, for ``results.json``.
        choices: among how many it acts; ``None`` where actions are numbers.
    """

    weights: Mapping[str, Tensor]
    losses: Mapping[str, Mapping[str, Any]]
    keep: bool
    origin: dict[str, Any]
    choices: int | None = None
    units: Mapping[str, float] = field(default_factory=dict)

    def normalizer(self, fitted: Normalizer, action: Tensor) -> Normalizer:
        """The checkpoint's, or the one that was fitted on the new data, of actions [N, A].

        Raises:
            InputError: observations or actions are of another size or kind.
        """
        loc, scale = self.weights["normalizer.loc"], self.weights["normalizer.scale"]
        if loc.shape != fitted.loc.shape:
            raise InputError(
                f"init_from={self.origin['checkpoint']} reads observations of {len(loc)} numbers, "
                f"this data's have {len(fitted.loc)}; choose a task or a checkpoint that fits"
            )
        units = [self.weights.get(f"normalizer.action_{name}") for name in ("loc", "scale")]
        kind = "choices" if action.dtype == torch.bool else "numbers"
        here, there = action.shape[-1], None
        if self.choices is not None:
            there = f"{self.choices} choices"
        elif units[0] is not None:
            there = f"{len(units[0])} numbers"
        if there is not None and there != f"{here} {kind}":
            raise InputError(
                f"init_from={self.origin['checkpoint']} acts by {there}, this data's actions are "
                f"{here} {kind}; choose a task or a checkpoint that fits"
            )
        if not self.keep:
            return fitted
        return Normalizer(loc, scale, float(self.weights["normalizer.returns_scale"]), *units)

    @torch.no_grad()
    def give_weights(self, model: nn.Module) -> None:
        """Copies them into a new model.

        Raises:
            InputError: they do not fit.
        """
        trained = {name for name, _ in model.named_parameters()}
        for name, value in model.state_dict().items():
            unit = self.keep and name.rpartition(".")[2] not in _BOUNDS
            if name in trained or unit:
                self._copy(self.weights, name, value)

    @torch.no_grad()
    def give_critics(self, losses: Mapping[str, nn.Module]) -> None:
        """Copies what the loss modules hold and the model does not.

        Raises:
            InputError: they do not fit.
        """
        for part, loss in losses.items():
            for name, value in loss.state_dict().items():
                if name.startswith(_CRITICS):
                    self._copy(self.losses.get(part, {}), name, value)

    def _copy(self, source: Mapping[str, Any], name: str, target: Tensor) -> None:
        found = source.get(name)
        if not isinstance(found, Tensor) or found.shape != target.shape:
            has = list(found.shape) if isinstance(found, Tensor) else "missing"
            raise InputError(
                f"init_from={self.origin['checkpoint']} does not fit this run's environment and "
                f"settings: {name} is {has} there and {list(target.shape)} here"
            )
        target.copy_(found)


def find_start(config: Config, checkpoint: Path | None) -> Start | None:
    """What ``init_from`` means.

    Args:
        config: the run's settings.
        checkpoint: the run's own, if it goes on from one: its normaliser is then taken from there.

    Raises:
        InputError: if there is no such checkpoint, or its networks are not those of the settings.
    """
    if config.init_from is None:
        return None
    path = checkpoint or find_checkpoint(config.init_from)
    about = load_about(path)
    keep = config.init_normalizer == "keep"
    if checkpoint is None:
        _check_same(config, check_config(about["config"]), keep)
        dataset = {key: about["dataset"][key] for key in ("source", "hash")}
        origin = {"checkpoint": config.init_from, "step": about["step"], "dataset": dataset}
        torchrl_logger.info(
            f"starts from the weights of {path} ({about['step']} steps on {dataset['source']}); "
            + (
                "their normaliser is kept"
                if keep
                else "the normaliser is fitted anew: they are "
                "given other units than they were trained in"
            )
        )
    else:
        origin = {"checkpoint": config.init_from, **dict(about.get("init_from") or {})}
    trained = load_payload(path, "training", "cpu").get("trainer", {})
    units = dict(trained.get("units", {})) if keep else {}
    choices = len(about["action_low"]) if about.get("action_choices") is not None else None
    weights, losses = load_payload(path, "planner", "cpu"), trained.get("losses", {})
    return Start(weights, losses, keep, origin, choices, units)


def _check_same(config: Config, source: Config, keep: bool) -> None:
    """Refuses weights that are of other networks than the settings'.

    Raises:
        InputError: that names all settings to be given for them to fit.
    """
    here, there = _network_settings(config, keep), _network_settings(source, keep)
    if config.algorithm.name != source.algorithm.name:
        here, there = {"algorithm": config.algorithm.name}, {"algorithm": source.algorithm.name}
    names = [name for name in here | there if here.get(name) != there.get(name)]
    if names:
        mine, theirs = (" ".join(_word(k, s[k]) for k in names if k in s) for s in (here, there))
        raise InputError(
            f"the weights of init_from={config.init_from} need {theirs}, this run has {mine}; "
            f"give the former, too"
        )


def _network_settings(config: Config, keep: bool) -> dict[str, Any]:
    """The settings that weights depend on, by name, without those that are not read."""
    settings = to_dict(config)
    keys = [f"{part}.{name}" for part in ("algorithm", *_PARTS) for name in settings[part]]
    keys = [key for key in keys if key.startswith(_NETWORKS) and key not in _TRAINING]
    if config.algorithm.name in PLANNERS:
        strided = config.generator.kind == "plan"
        keys += ["task.strided_horizon", "task.stride"] if strided else ["task.horizon"]
    if keep:
        keys.append("task.returns_scale")  # which the normaliser knows
    found = {}
    for key in keys:
        section, name = key.split(".")
        if reads(config, key):
            found[key] = settings[section][name]
    if config.generator.kind == "plan" and "value.enabled" in found:
        found["task.scored"] = found.pop("value.enabled")  # the setting by which it is given
    return found


def _word(key: str, value: Any) -> str:
    """As it is given on the command line."""
    text = f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "")
    return f"{key}={'null' if value is None else text}"
