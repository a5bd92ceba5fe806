"""Loss of the critic that can choose among candidate plans."""

from __future__ import annotations

from dataclasses import dataclass

from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from tensordict.utils import NestedKey

from torchrl_td.modules import PlanCritic
from torchrl_td.objectives.common import Reduction, WindowLoss, hide_masked


class PlanCriticLoss(WindowLoss):
    """Mean squared error of Q(s, a) against the scaled returns-to-go (Monte Carlo).

    The paper has no critic; the authors' code picks among candidate plans with one.

    Args:
        critic_network (PlanCritic): the critic.

    Keyword Args:
        reduction (str, optional): ``"mean"``, which ``None`` stands for, ``"sum"`` or
            ``"none"``.

    Raises:
        InputError: if the reduction is unknown; in use, if an entry is of another shape.
        KeyError: in use, if the batch lacks an entry.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_td.modules import PlanCritic
        >>> from torchrl.modules import MLP
        >>> from torchrl_td.objectives import PlanCriticLoss
        >>> loss_module = PlanCriticLoss(PlanCritic(MLP(3 + 2, 1, num_cells=(32, 32))))
        >>> window = TensorDict(
        ...     observation=torch.randn(4, 14, 3),
        ...     action=torch.randn(4, 14, 2),
        ...     returns_to_go=torch.rand(4, 14, 1),
        ...     mask=torch.ones(4, 14, dtype=torch.bool),
        ...     batch_size=[4, 14],
        ... )
        >>> loss_module(window)["loss_critic"].backward()
    """

    @dataclass
    class _AcceptedKeys:
        """Keys of the window.

        Attributes:
            observation: states [B, T, O].
            action: actions [B, T, A].
            returns_to_go: scaled returns-to-go [B, T, 1].
            mask: [B, T] or [B, T, 1], True for real steps; where it is missing, all are.
        """

        observation: NestedKey = "observation"
        action: NestedKey = "action"
        returns_to_go: NestedKey = "returns_to_go"
        mask: NestedKey = "mask"

    default_keys = _AcceptedKeys
    default_out_keys = ("loss_critic",)
    module_reads = ("observation", "action")

    critic_network: PlanCritic
    critic_network_params: TensorDictParams
    target_critic_network_params: TensorDictParams

    def __init__(self, critic_network: PlanCritic, *, reduction: Reduction | None = "mean") -> None:
        super().__init__(critic_network, "critic_network", reduction)

    @dispatch(source="keyword_keys")
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Computes ``loss_critic`` of a batch of windows, or of steps, of any shape."""
        entries = self._read(tensordict, "observation", "action", "returns_to_go")
        _, counted = self._masks(tensordict, entries[0])
        observation, action, returns_to_go = hide_masked(counted, *entries)
        with self.critic_network_params.to_module(self.critic_network):
            value = self.critic_network.value(observation, action)
        loss = self._reduced((value - returns_to_go).square(), counted)
        return TensorDict({"loss_critic": loss})
