"""Loss of the limit on the returns-to-go that are asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from tensordict.utils import NestedKey

from torchrl_td.modules import ReturnsLimit
from torchrl_td.modules.common import first_width
from torchrl_td.objectives.common import Reduction, WindowLoss, hide_masked


class ReturnsLimitLoss(WindowLoss):
    """Expectile regression of the scaled returns-to-go on the state (IQL's eq. 5, Monte Carlo).

    Errors of returns-to-go below the expectile are weighted by 1 − τ, those above it by τ.

    Args:
        limit_network (ReturnsLimit): the limit.

    Keyword Args:
        reduction (str, optional): ``"mean"``, which ``None`` stands for, ``"sum"`` or
            ``"none"``.

    Raises:
        InputError: if the reduction is unknown; in use, if an entry is of another shape.
        KeyError: in use, if the batch lacks an entry.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.modules import MLP
        >>> from torchrl_td.modules import ReturnsLimit
        >>> from torchrl_td.objectives import ReturnsLimitLoss
        >>> loss_module = ReturnsLimitLoss(ReturnsLimit(MLP(3, 1, num_cells=[32])))
        >>> batch = TensorDict(
        ...     observation=torch.randn(4, 3), returns_to_go=torch.rand(4, 1), batch_size=[4]
        ... )
        >>> loss_module(batch)["loss_returns_limit"].backward()
    """

    @dataclass
    class _AcceptedKeys:
        """Keys of the batch.

        Attributes:
            observation: states [B, O].
            returns_to_go: scaled returns-to-go [B, 1].
            mask: [B] or [B, 1], True for the states that count; where it is missing, all do.
        """

        observation: NestedKey = "observation"
        returns_to_go: NestedKey = "returns_to_go"
        mask: NestedKey = "mask"

    default_keys = _AcceptedKeys
    default_out_keys = ("loss_returns_limit",)
    module_reads = ("observation",)

    limit_network: ReturnsLimit
    limit_network_params: TensorDictParams
    target_limit_network_params: TensorDictParams

    def __init__(
        self,
        limit_network: ReturnsLimit,
        *,
        reduction: Reduction | None = "mean",
    ) -> None:
        super().__init__(limit_network, "limit_network", reduction)

    @dispatch(source="keyword_keys")
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Computes ``loss_returns_limit`` of a batch of states of any shape."""
        width = first_width(self.limit_network.network)
        entries = self._read(tensordict, "observation", "returns_to_go", O=width)
        _, counted = self._masks(tensordict, entries[0])
        observation, returns_to_go = hide_masked(counted, *entries)
        with self.limit_network_params.to_module(self.limit_network):
            error = returns_to_go - self.limit_network.estimate(observation)
        expectile = self.limit_network.expectile
        weight = torch.where(error > 0, expectile, 1 - expectile).to(error.dtype)
        return TensorDict({"loss_returns_limit": self._reduced(weight * error.square(), counted)})
