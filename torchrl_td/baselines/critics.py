"""IQL and TD3+BC, of TorchRL's losses: policies that a learned value improves on the data's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential
from tensordict.nn import TensorDictModule as Module
from torch import Tensor, nn
from torchrl.data import TensorDictReplayBuffer
from torchrl.modules import MLP, IndependentNormal
from torchrl.objectives import IQLLoss, SoftUpdate, TargetNetUpdater, TD3BCLoss

from torchrl_td.baselines.algorithm import Baseline
from torchrl_td.baselines.policy import Policy
from torchrl_td.config import Config
from torchrl_td.data.normalizer import Normalizer
from torchrl_td.data.statistics import numbered_returns
from torchrl_td.data.transitions import successor_known
from torchrl_td.errors import InputError

_SCALE = "reward_scale"  # among the units, by which rewards are multiplied
_SPREAD = (-5.0, 2.0)  # of the logarithm of IQL's standard deviation, as in its authors' code


def _mlp(in_dim: int, out_dim: int, hidden: Sequence[int]) -> MLP:
    return MLP(in_dim, out_dim, num_cells=list(hidden), activation_class=nn.ReLU)


class BoundedMLP(nn.Module):
    """An MLP whose output a tanh keeps between two bounds [A]."""

    low: Tensor
    high: Tensor

    def __init__(self, in_dim: int, hidden: tuple[int, ...], low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.network = _mlp(in_dim, low.shape[0], hidden)
        self.register_buffer("low", low.clone())
        self.register_buffer("high", high.clone())

    def forward(self, *inputs: Tensor) -> Tensor:
        share = (torch.tanh(self.network(*inputs)) + 1) / 2
        return self.low + (self.high - self.low) * share


class ValuedPolicy(Policy):
    """A policy with the networks that value its actions.

    Args:
        network: the policy's.
        normalizer: fitted on the dataset.
        action_low: lowest actions [A].
        action_high: highest actions [A].
        value: V(s), if there is one.
        action_value: Q(s, a), as it is before training; the loss keeps the trained ones.
    """

    def __init__(
        self,
        network: nn.Module,
        normalizer: Normalizer,
        action_low: Tensor,
        action_high: Tensor,
        value: nn.Module | None,
        action_value: nn.Module,
    ) -> None:
        super().__init__(network, normalizer, action_low, action_high)
        self.value, self.action_value = value, action_value
        self.log_spread = nn.Parameter(torch.zeros_like(action_low))

    def parameter_counts(self) -> dict[str, int]:
        parts = {"value": self.value, "action_value": self.action_value}
        counts = {k: sum(p.numel() for p in m.parameters()) for k, m in parts.items() if m}
        counts["action_value"] *= 2  # the loss trains two
        return {**super().parameter_counts(), **counts}


class _Spread(nn.Module):
    """Mean and standard deviation [..., A] of IQL's policy; the latter is the same everywhere."""

    def __init__(self, network: nn.Module, log_spread: nn.Parameter) -> None:
        super().__init__()
        self.network, self.log_spread = network, log_spread

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.network(observation)
        return mean, self.log_spread.clamp(*_SPREAD).exp().expand_as(mean)


class ValueLearning(Baseline):
    """What IQL and TD3+BC share: transitions as data, and a soft update of their targets."""

    entries = (
        "observation",
        "action",
        ("next", "observation"),
        ("next", "reward"),
        ("next", "done"),
        ("next", "terminated"),
    )
    with_value = False

    def __init__(self, model: nn.Module, config: Config) -> None:
        super().__init__(model, config)
        low, high = cast(Tensor, model.action_low), cast(Tensor, model.action_high)
        if not (high - low).isfinite().all():
            raise InputError(
                f"{config.algorithm.name} keeps actions within the environment's bounds, which are "
                f"not finite on both sides; wrap it with a bounded action space, or choose a "
                f"method that needs none, as rcbc"
            )

    @classmethod
    def build(
        cls, config: Config, normalizer: Normalizer, action_low: Tensor, action_high: Tensor
    ) -> nn.Module:
        hidden = tuple(config.algorithm.hidden_dims or ())
        states, actions = normalizer.loc.shape[0], action_low.shape[0]
        bounds = (normalizer.normalize_action(bound) for bound in (action_low, action_high))
        network = BoundedMLP(states, hidden, *bounds)
        value = _mlp(states, 1, hidden) if cls.with_value else None
        action_value = _mlp(states + actions, 1, hidden)
        return ValuedPolicy(network, normalizer, action_low, action_high, value, action_value)

    def make_updaters(self) -> list[TargetNetUpdater]:
        return [SoftUpdate(loss, tau=self.config.algorithm.tau) for loss in self.losses.values()]

    def keep(self, episodes: TensorDictBase) -> Tensor:
        """Steps whose successor the data hold, or that have none to be valued."""
        useful = successor_known(episodes) | episodes["next", "terminated"]
        if not useful.any():
            raise InputError(
                f"algorithm={self.config.algorithm.name} learns from steps whose next observation "
                f"is known, or that terminate, and the training data have none; give "
                f"next_observations, or choose an algorithm that needs none, as algorithm=rcbc"
            )
        return torch.nonzero(useful.reshape(-1)).flatten()

    def make_buffers(
        self, normalized: TensorDictBase, batch_size: int, seed: int, device: torch.device
    ) -> dict[str, TensorDictReplayBuffer]:
        data = normalized.clone(recurse=False)
        if self.config.algorithm.normalize_rewards:
            if _SCALE not in self.units:
                self.units[_SCALE] = reward_scale(normalized)
            data["next", "reward"] = self.units[_SCALE] * data["next", "reward"]
        return super().make_buffers(data, batch_size, seed, device)

    @property
    def policy(self) -> ValuedPolicy:
        """The model."""
        assert isinstance(self.model, ValuedPolicy)
        return self.model

    def _action_value(self) -> Module:
        return Module(self.policy.action_value, ["observation", "action"], ["state_action_value"])

    def parts(self) -> dict[str, list[nn.Parameter]]:
        (loss,) = self.losses.values()
        names = ("actor", "value", "qvalue")
        parts = {name: getattr(loss, f"{name}_network_params", None) for name in names}
        return {name: list(trained(part)) for name, part in parts.items() if part is not None}


def trained(parameters: TensorDictParams) -> Iterator[nn.Parameter]:
    """Of a loss' parameters those that an optimiser moves."""
    return (p for p in parameters.parameters() if p.requires_grad)


def reward_scale(episodes: TensorDictBase) -> float:
    """What brings the difference between the best and the worst return to 1000 (IQL's recipe)."""
    returns, _ = numbered_returns(episodes)
    spread = float(returns.max() - returns.min())
    return 1000 / spread if spread > 0 else 1.0


class ImplicitQLearning(ValueLearning):
    """Implicit Q-learning (arXiv 2110.06169): V by an expectile, the policy by its advantage."""

    with_value = True

    def make_losses(self) -> dict[str, Any]:
        settings, model = self.config.algorithm, self.policy
        spread = Module(_Spread(model.network, model.log_spread), ["observation"], ["loc", "scale"])
        policy = ProbabilisticTensorDictSequential(
            spread,
            ProbabilisticTensorDictModule(
                ["loc", "scale"], ["action"], distribution_class=IndependentNormal
            ),
        )
        loss = IQLLoss(
            policy,
            self._action_value(),
            Module(model.value, ["observation"], ["state_value"]),
            loss_function="l2",
            temperature=settings.temperature,
            expectile=settings.expectile,
        )
        loss.make_value_estimator(gamma=settings.discount)
        return {"iql": loss}

    def decays(self, part: str) -> bool:
        """The policy's rate falls, the values' stay, as in the authors' code."""
        return part == "actor"


class _DelayedTD3BCLoss(TD3BCLoss):
    """TorchRL's, its policy trained at every ``delay``-th call, its noise in shares of the actions.

    The calls are counted for a checkpoint on the device, and on the host, which need not wait for
    it then. As in the authors' code the noise of the target's actions, and its limit, count in
    half the range of each action.
    """

    calls: Tensor

    def __init__(self, *args: Any, delay: int, **settings: Any) -> None:
        super().__init__(*args, **settings)
        half = (self.max_action - self.min_action) / 2  # [A]
        for name in ("policy_noise", "noise_clip"):
            share = getattr(self, name)
            delattr(self, name)
            self.register_buffer(name, share * half, persistent=False)  # numbers in TorchRL's
        self.delay = delay
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self._count: int | None = None  # the same; None until it is read

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._count = None

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        losses = super().forward(tensordict)
        if self.training and torch.is_grad_enabled():
            self._count = 1 + (int(self.calls) if self._count is None else self._count)
            self.calls += 1
            if self._count % self.delay:
                losses["loss_actor"] = losses["loss_actor"].detach()
        return losses


class TD3BehaviourCloning(ValueLearning):
    """TD3+BC (arXiv 2106.06860): TD3 whose policy is held near the data's actions."""

    def make_losses(self) -> dict[str, Any]:
        settings, model = self.config.algorithm, self.policy
        loss = _DelayedTD3BCLoss(
            Module(model.network, ["observation"], ["action"]),
            self._action_value(),
            bounds=(model.network.low, model.network.high),
            alpha=settings.alpha,
            loss_function="l2",
            delay=settings.policy_delay or 1,
        )
        loss.make_value_estimator(gamma=settings.discount)
        return {"td3_bc": loss}

    def update_targets(self, step: int) -> None:
        if (step + 1) % (self.config.algorithm.policy_delay or 1) == 0:
            super().update_targets(step)
