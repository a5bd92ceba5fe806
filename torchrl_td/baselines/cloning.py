"""Behaviour cloning: of all data, of its best tenth, and with the return asked for as an input."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.objectives import BCLoss

from torchrl_td.baselines.algorithm import Baseline
from torchrl_td.baselines.policy import make_policy
from torchrl_td.config import Config
from torchrl_td.data.normalizer import Normalizer
from torchrl_td.data.statistics import numbered_returns


class _CloningLoss(BCLoss):
    target_actor_network_params: TensorDictParams | None  # which TorchRL warns of otherwise


class _SumOfLosses(nn.ModuleList):
    """Each network's gradient is that of its own loss."""

    def forward(self, batch: TensorDictBase) -> TensorDict:
        return TensorDict({"loss_bc": torch.stack([loss(batch)["loss_bc"] for loss in self]).sum()})


class _Probabilities(nn.Module):
    """Those of choices, of which the squared error is a proper score (Brier's)."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(*inputs).softmax(-1)


class BehaviourCloning(Baseline):
    """The data's action from the state, by mean squared error (TorchRL's ``BCLoss``)."""

    inputs: tuple[str, ...] = ("observation",)
    modulated = False  # whether the last input scales and shifts the network's layers
    chooses = True

    @classmethod
    def build(
        cls, config: Config, normalizer: Normalizer, action_low: Tensor, action_high: Tensor
    ) -> nn.Module:
        return make_policy(
            config,
            normalizer,
            action_low,
            action_high,
            modulated=cls.modulated,
            conditioned="returns_to_go" in cls.inputs,
        )

    def make_losses(self) -> dict[str, Any]:
        return {"bc": self.cloning_loss(self.model.network)}

    def cloning_loss(self, network: Any) -> BCLoss:
        """The loss of one network."""
        if self.model.choices:
            network = _Probabilities(network)
        actor = TensorDictModule(network, in_keys=list(self.inputs), out_keys=["action"])
        return _CloningLoss(actor, loss_function="l2")


class BestTenthCloning(BehaviourCloning):
    """Cloning of the tenth of the episodes that have the highest returns, at least one."""

    def keep(self, episodes: TensorDictBase) -> Tensor:
        return best_episodes(episodes, 0.1)


class ReturnConditionedCloning(BehaviourCloning):
    """Cloning with the returns-to-go as an input: asked for a high return, it acts for one."""

    inputs = ("observation", "returns_to_go")
    entries = ("observation", "returns_to_go", "action")


class ModulatedCloning(ReturnConditionedCloning):
    """The same, but the returns-to-go scale and shift the network's layers (FiLM)."""

    modulated = True


class EnsembleCloning(ReturnConditionedCloning):
    """Return-conditioned cloning by several networks: each learns as alone, their mean acts."""

    def make_losses(self) -> dict[str, Any]:
        networks: Any = self.model.network
        return {"bc": _SumOfLosses(self.cloning_loss(network) for network in networks)}


def best_episodes(episodes: TensorDictBase, share: float) -> Tensor:
    """Rows of the episodes with the highest returns.

    Args:
        episodes: dataset [N] with ``episode`` and rewards.
        share: of the episodes; at least one is taken.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_td.baselines.cloning import best_episodes
        >>> data = TensorDict(
        ...     episode=torch.tensor([4, 4, 7, 7]),
        ...     next=TensorDict(reward=torch.tensor([[1.0], [0.0], [1.0], [1.0]]), batch_size=[4]),
        ...     batch_size=[4],
        ... )
        >>> best_episodes(data, 0.1)
        tensor([2, 3])
    """
    returns, number = numbered_returns(episodes)
    count = max(1, int(share * len(returns)))
    best = torch.zeros(len(returns), dtype=torch.bool)
    best[returns.argsort(descending=True, stable=True)[:count]] = True
    return torch.nonzero(best[number]).flatten()
