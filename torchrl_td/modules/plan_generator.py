"""The generator that drafts a whole plan from the present state in one evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn

from torchrl_td.modules.common import KeyedModule, dispatched


class PlanGenerator(KeyedModule):
    """Regresses the H − 1 states that follow on the present state and the condition.

    Where the state is Markov the history adds nothing to the present, and a model that sees its
    own past copies it: it stands where it stood. This one sees the present alone, and its states
    lie ``stride`` steps apart, which its scale knows and it does not.

    Args:
        network: from state and condition [..., O + 1] to (H − 1) O numbers.
        scale: root mean square of s_{t+jm} − s_t, shape [H, O], 0 for constant dimensions: the
            unit of the network's outputs.
        in_keys: keys of the present state [..., O], normalised, and of the condition [..., 1].
        out_keys: key of the draft [..., H, O].

    Examples:
        >>> import torch
        >>> from torchrl.modules import MLP
        >>> from torchrl_td.modules import PlanGenerator
        >>> generator = PlanGenerator(MLP(3 + 1, 7 * 3, num_cells=[32]), torch.ones(8, 3))
        >>> draft = generator.draft(torch.randn(5, 3), torch.ones(5, 1))
        >>> draft.shape
        torch.Size([5, 8, 3])
    """

    scale: Tensor

    def __init__(
        self,
        network: nn.Module,
        scale: Tensor,
        *,
        in_keys: Sequence[NestedKey] = ("observation", "returns_to_go"),
        out_keys: Sequence[NestedKey] = (("plan", "draft"),),
    ) -> None:
        super().__init__()
        self.network = network
        self.in_keys = list(in_keys)
        self.out_keys = list(out_keys)
        self.register_buffer("scale", scale.float())

    @dispatched
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes the draft, the present state first."""
        return self.write_entries(tensordict, self.draft(*self.read_entries(tensordict)))

    def displacement(self, present: Tensor, condition: Tensor) -> Tensor:
        """The network's plan [..., H − 1, O]: displacements from the present, in their scale."""
        output = self.network(torch.cat([present, condition], -1))
        return output.unflatten(-1, (self.scale.shape[0] - 1, self.scale.shape[1]))

    def draft(self, present: Tensor, condition: Tensor) -> Tensor:
        """The draft [..., H, O] from present states [..., O] and conditions [..., 1]."""
        moved = self.displacement(present, condition).to(present.dtype) * self.scale[1:]
        present = present.unsqueeze(-2)
        return torch.cat([present, present + moved], -2)

    def generate(
        self, observation: Tensor, returns_to_go: Tensor, mask: Tensor, steps: int
    ) -> tuple[Tensor, Tensor]:
        """A draft of a history's present, as :meth:`TrajectoryGenerator.generate` makes one.

        Args:
            observation: history of states, shape [B, L, O], the present last.
            returns_to_go: shape [B, L, 1]; the last is the condition.
            mask: bool [B, L]; not read.
            steps: H − 1.

        Returns:
            The draft [B, H, O] and, at each of its states, the condition [B, H, 1].
        """
        present, condition = observation[:, -1], returns_to_go[:, -1]
        return self.draft(present, condition), condition.unsqueeze(1).expand(-1, steps + 1, -1)
