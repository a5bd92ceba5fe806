"""The optimiser of an algorithm's parts and the schedule of its learning rate."""

from __future__ import annotations

from typing import Any

import torch

from torchrl_td.baselines import Algorithm


def make_optimizer(
    algorithm: Algorithm,
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """One AdamW over all parts (Adam where the decay is 0), and its learning rate's schedule."""
    settings = algorithm.config.training
    parts = algorithm.parts()
    groups = [
        {"params": parameters, "weight_decay": algorithm.weight_decay(name), "name": name}
        for name, parameters in parts.items()
    ]
    rate = settings.learning_rate
    optimizer = torch.optim.AdamW(groups, lr=rate, fused=True)
    for group in optimizer.param_groups:
        group["initial_lr"] = rate  # for the scheduler, which would take the tensor otherwise
    fit_for_capture(optimizer, settings.cudagraph)
    final, warmup = settings.final_learning_rate_share, settings.warmup_steps

    def constant(step: int) -> float:
        return min((step + 1) / warmup, 1.0) if warmup else 1.0

    def decaying(step: int) -> float:
        return constant(step) * (1 - (1 - final) * min(step / settings.decay_steps, 1.0))

    factors: list[Any] = [decaying if algorithm.decays(name) else constant for name in parts]
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factors)


def fit_for_capture(optimizer: torch.optim.Optimizer, captured: bool) -> None:
    """In a CUDA graph a learning rate must be a tensor on the device that stays where it is."""
    for group in optimizer.param_groups:
        rate, device = float(group["lr"]), group["params"][0].device
        group["lr"] = torch.tensor(rate, device=device) if captured else rate
        group["capturable"] = captured


def restart_schedule(
    optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LambdaLR
) -> None:
    """Sets the rates of the scheduler's step, should its schedule not be the optimiser's any more.

    A run that is trained on may have other ``decay_steps`` from there.
    """
    rates = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    for group, (base, factor) in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = base * factor(scheduler.last_epoch)
