"""A network that acts by itself: the model and the TorchRL policy of most baselines."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.data import TensorSpec
from torchrl.modules import MLP

from torchrl_td.config import Config
from torchrl_td.data.choices import written_choice
from torchrl_td.data.normalizer import Normalizer, check_action, check_floats
from torchrl_td.modules.choices import chosen
from torchrl_td.modules.common import dispatched
from torchrl_td.networks import ModulatedMLP


class Policy(nn.Module):
    """Action from the normalised state, and the scaled returns-to-go where it is conditioned.

    Args:
        network: from [..., O] (and [..., 1]) to [..., A], normalised too.
        normalizer: fitted on the dataset.
        action_low: lowest actions [A], in the environment's units.
        action_high: highest actions [A], likewise.
        conditioned: whether the network reads the returns-to-go.

    Examples:
        >>> import torch
        >>> from torchrl_td.baselines.policy import Policy
        >>> from torchrl_td.config import Config
        >>> from torchrl_td.data import Normalizer
        >>> from torchrl.modules import MLP
        >>> from tensordict import TensorDict
        >>> normalizer, bound = Normalizer(torch.zeros(3), torch.ones(3)), torch.ones(2)
        >>> policy = Policy(MLP(3, 2, num_cells=(32,)), normalizer, -bound, bound)
        >>> actor = policy.actor(Config())
        >>> actor(TensorDict(observation=torch.randn(5, 3), batch_size=[5]))["action"].shape
        torch.Size([5, 2])
    """

    action_low: Tensor
    action_high: Tensor

    def __init__(
        self,
        network: nn.Module,
        normalizer: Normalizer,
        action_low: Tensor,
        action_high: Tensor,
        conditioned: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.normalizer, self.conditioned = network, normalizer, conditioned
        self.choices = False  # whether the network scores choices
        self.register_buffer("action_low", action_low.clone())
        self.register_buffer("action_high", action_high.clone())

    def actor(self, config: Config) -> PolicyActor:
        """The policy, for an environment with :func:`~torchrl_td.envs.make.planning_transforms`."""
        return PolicyActor(self)

    def parameter_counts(self) -> dict[str, int]:
        """Number of trained parameters of each part."""
        return {"policy": sum(p.numel() for p in self.network.parameters())}


class MeanOfNetworks(nn.ModuleList):
    """Networks of the same inputs, whose outputs' mean counts.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from torchrl_td.baselines.policy import MeanOfNetworks
        >>> MeanOfNetworks([nn.Linear(4, 3), nn.Linear(4, 3)])(torch.zeros(5, 4)).shape
        torch.Size([5, 3])
    """

    def forward(self, *inputs: Tensor) -> Tensor:
        """The mean [..., A]."""
        return torch.stack([network(*inputs) for network in self]).mean(0)


class PolicyActor(TensorDictModuleBase):
    """Plays a :class:`Policy`: reads and writes the environment's own units.

    Args:
        policy: the model.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy, self.normalizer = policy, policy.normalizer
        self.action_spec: TensorSpec | None = None  # of choices: what the environment wants
        self.in_keys = ["observation", *(["target_return"] if policy.conditioned else [])]
        self.out_keys = ["action"]

    @dispatched
    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Acts for any batch shape.

        Raises:
            InputError: on the CPU, if what is read or the action is not finite.
        """
        policy, normalizer = self.policy, self.normalizer
        observation, *target = (check_floats(key, tensordict[key]) for key in self.in_keys)
        inputs = [normalizer.normalize(observation), *map(normalizer.scale_returns, target)]
        action = check_action("observation", policy.network(*inputs))
        if policy.choices:
            tensordict["action"] = written_choice(chosen(action), self.action_spec)
            return tensordict
        action = normalizer.denormalize_action(action)
        tensordict["action"] = torch.clamp(action, policy.action_low, policy.action_high)
        return tensordict


def make_policy(
    config: Config,
    normalizer: Normalizer,
    action_low: Tensor,
    action_high: Tensor,
    *,
    modulated: bool = False,
    **settings: Any,
) -> Policy:
    """A :class:`Policy` around an MLP of ``algorithm.hidden_dims``, or ``algorithm.members`` such.

    Args:
        config: the run's settings.
        normalizer: fitted on the dataset.
        action_low: lowest actions [A].
        action_high: highest actions [A].
        modulated: whether the condition scales and shifts the layers in place of being an input.
        **settings: of the policy.
    """
    width = normalizer.loc.shape[0] + settings.get("conditioned", False)
    hidden = list(config.algorithm.hidden_dims or ())
    actions = action_low.shape[0]
    members = config.algorithm.members

    def make() -> nn.Module:
        if modulated:
            return ModulatedMLP(width, actions, hidden)
        return MLP(width, actions, num_cells=hidden, activation_class=nn.ReLU)

    network = make() if members is None else MeanOfNetworks(make() for _ in range(members))
    return Policy(network, normalizer, action_low, action_high, **settings)
