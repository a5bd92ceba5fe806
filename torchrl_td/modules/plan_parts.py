"""A plan in one evaluation: its generator, the inverse dynamics that reads it, and its value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.modules import symexp, symlog

from torchrl_td.errors import InputError, check_whole
from torchrl_td.modules.choices import chosen
from torchrl_td.modules.common import KeyedModule, dispatched, inverse, last_width

_FARTHEST = 8.0  # planned changes are clipped to so many times their root mean square
Combine = Literal["lowest", "mean"]
HIGHEST_SCORE = 4.0  # of a plan: its z-scores are clipped to so many standard deviations
# The mean of log |x| of a standard normal x is -0.635: exp of it, inverted, makes a mean of
# log |error| a standard deviation.
_LOG_TO_STD = 1.887


class PlanGenerator(KeyedModule):
    """Regresses the H − 1 states that follow on the present state and the condition.

    Where the state is Markov the history adds nothing to the present, and a model that sees its
    own past copies it: it stands where it stood. This one sees the present alone, and its states
    lie ``stride`` steps apart, which its scale knows and it does not.

    Of several networks, an :class:`Ensemble`, the mean counts: what each gets wrong by chance, and
    a gait slowly drifts by, is less in it.

    Args:
        network: from state and condition [..., O + 1] to (H − 1) O numbers of each member.
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

    def members(self, present: Tensor, condition: Tensor) -> Tensor:
        """Each network's plan [..., M, H − 1, O], as :meth:`displacement` says it."""
        output = self.network(torch.cat([present, condition], -1))
        return output.unflatten(-1, (-1, self.scale.shape[0] - 1, self.scale.shape[1]))

    def displacement(self, present: Tensor, condition: Tensor) -> Tensor:
        """The plan [..., H − 1, O]: displacements from the present, in their scale."""
        return self.members(present, condition).mean(-3)

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


class PlanInverseDynamics(KeyedModule):
    """The action with which a plan begins: a_t = f(s_t, s_{t+m}, …, s_{t+Pm}, condition).

    It learns from the plans it will be given. A draft is an average of futures, and its change of
    position and its change of speed do not belong together as those of one real trajectory do: a
    network exact on real pairs extrapolates there. Told the condition, it can never know less
    than a policy conditioned on it. Of several networks, an :class:`Ensemble`, the mean counts.

    Args:
        network: from [..., O + P O + 1] to the action of each member.
        scale: root mean square of s_{t+jm} − s_t, shape [H, O], 0 for constant dimensions.
        plan_states: P, how many planned states are read.
        choices: as of :class:`~torchrl_td.modules.InverseDynamics`.
        in_keys: keys of the plan [..., H, O], normalised, and the condition [..., 1].
        out_keys: key of the action [..., A].

    Examples:
        >>> import torch
        >>> from torchrl.modules import MLP
        >>> from torchrl_td.modules import PlanInverseDynamics
        >>> network = MLP(3 + 2 * 3 + 1, 2, num_cells=[32])
        >>> inverse_dynamics = PlanInverseDynamics(network, torch.ones(8, 3), plan_states=2)
        >>> inverse_dynamics.act_on(torch.randn(5, 8, 3), torch.ones(5, 1)).shape
        torch.Size([5, 2])
    """

    inverse_scale: Tensor

    def __init__(
        self,
        network: nn.Module,
        scale: Tensor,
        *,
        plan_states: int = 2,
        choices: bool = False,
        in_keys: Sequence[NestedKey] = (("plan", "refined"), "returns_to_go"),
        out_keys: Sequence[NestedKey] = ("action",),
    ) -> None:
        super().__init__()
        check_whole("plan_states", plan_states, 1, len(scale) - 1)
        self.network, self.choices = network, choices
        self.plan_states = plan_states
        self.in_keys = list(in_keys)
        self.out_keys = list(out_keys)
        self.register_buffer("inverse_scale", inverse(scale[1 : 1 + plan_states].float()))

    @property
    def action_dim(self) -> int | None:
        """A, as far as the network's last layer tells it."""
        return last_width(members_of(self.network)[0])

    @dispatched
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes the action [..., A] with which the plan begins."""
        return self.write_entries(tensordict, self.act_on(*self.read_entries(tensordict)))

    def act_on(self, plan: Tensor, condition: Tensor) -> Tensor:
        """The action [..., A] for plans [..., H, O], the present first, and conditions [..., 1]."""
        output = self.output(plan, condition)
        return chosen(output) if self.choices else output

    def output(self, plan: Tensor, condition: Tensor) -> Tensor:
        """The action [..., A], or the scores of choices."""
        members = self.members(plan, condition)
        # Counted from the front: OpenVINO takes another axis for -2 where an action is one number.
        return members.mean(members.ndim - 2)

    def members(self, plan: Tensor, condition: Tensor) -> Tensor:
        """Each network's action, or scores of choices, [..., M, A]."""
        present = plan[..., 0, :]
        planned = plan[..., 1 : 1 + self.plan_states, :] - plan[..., :1, :]  # [..., P, O]
        planned = (planned * self.inverse_scale).clamp(-_FARTHEST, _FARTHEST).flatten(-2)
        output: Tensor = self.network(torch.cat([present, planned, condition], -1))
        return output.unflatten(-1, (len(members_of(self.network)), -1))


class Ensemble(nn.Module):
    """Networks of one input, their outputs [..., D] side by side [..., M D].

    >>> Ensemble([nn.Linear(4, 3), nn.Linear(4, 3)])(torch.zeros(5, 4)).shape
    torch.Size([5, 6])
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([network(x) for network in self.networks], -1)


def members_of(network: nn.Module) -> Sequence[nn.Module]:
    """An ensemble's networks, or the network that stands alone."""
    return list(network.networks) if isinstance(network, Ensemble) else [network]


class PlanValue(KeyedModule):
    """V(s), and the usual outcome of the data's plans from s: its mean and spread.

    A plan's outcome is y = Σ γʲ r_{t+j} + γⁿ V(s_{t+n}), the rewards along it and the value of
    its last state. V is an upper expectile of y, learned from states alone as in IQL and HIQL, so
    that it holds what the best of several continuations through a state would bring, also where
    no single episode joins them. The z-score of y among the data's outcomes from the same state
    says how good a plan is *for its state*: a scale on which one number can be asked for in every
    state and task, where a return asked for must be one that the state can still bring.

    Where the data are silent, within walls say, a single network's V is arbitrary, and choosing the
    best of several plans finds the places where it is too high. Of several networks, an
    :class:`Ensemble`, the lowest V counts, or their mean.

    Far from a reward V is a small share of what it is there, and a network that says V has errors
    as large as the differences that show the way. Its symmetric logarithm (DreamerV3's,
    arXiv 2301.04104) falls evenly with the steps to the reward.

    Args:
        network: from states [..., O] to three numbers of each member: V, the mean of y, the mean
            of ``log |y − mean|``.
        limit: z-scores are clipped to ±limit.
        combine: which V of several members counts.
        symlog_unit: u, above 0, where the first of the three numbers is not V but
            ``sign(V) log(1 + |V| / u)``; ``None`` for V itself.
        in_keys: key of the state [..., O], normalised.
        out_keys: key of the value [..., 1].

    Examples:
        >>> import torch
        >>> from torchrl.modules import MLP
        >>> from torchrl_td.modules import PlanValue
        >>> plan_value = PlanValue(MLP(11, 3, num_cells=[32]))
        >>> observation, outcome = torch.randn(5, 11), torch.rand(5, 1)
        >>> plan_value.value(observation).shape, plan_value.score(observation, outcome).shape
        (torch.Size([5, 1]), torch.Size([5, 1]))
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        limit: float = HIGHEST_SCORE,
        combine: Combine = "lowest",
        symlog_unit: float | None = None,
        in_keys: Sequence[NestedKey] = ("observation",),
        out_keys: Sequence[NestedKey] = ("state_value",),
    ) -> None:
        super().__init__()
        if combine not in get_args(Combine):
            allowed = ", ".join(get_args(Combine))
            raise InputError(f"unknown combine {combine!r}; allowed are {allowed}")
        if symlog_unit is not None and not symlog_unit > 0:
            raise InputError(f"symlog_unit must be positive, got {symlog_unit}")
        self.network = network
        self.limit = limit
        self.combine = combine
        self.symlog_unit = symlog_unit
        self.in_keys = list(in_keys)
        self.out_keys = list(out_keys)

    @dispatched
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes V [..., 1] of the state."""
        return self.write_entries(tensordict, self.value(*self.read_entries(tensordict)))

    def members(self, observation: Tensor) -> Tensor:
        """Of each member V, and the means of y and of log error, [..., M, 3] at states [..., O]."""
        output: Tensor = self.network(observation).unflatten(-1, (-1, 3))
        if self.symlog_unit is None:
            return output
        return torch.cat([self.symlog_unit * symexp(output[..., :1]), output[..., 1:]], -1)

    def value(self, observation: Tensor) -> Tensor:
        """V [..., 1] of states [..., O]: the lowest that a member gives, or the members' mean."""
        values = self.members(observation)[..., 0]
        return values.amin(-1, True) if self.combine == "lowest" else values.mean(-1, True)

    def logarithm(self, value: Tensor) -> Tensor:
        """The symmetric logarithm of values or outcomes, in ``symlog_unit``."""
        assert self.symlog_unit is not None
        return symlog(value / self.symlog_unit)

    def score(self, observation: Tensor, outcome: Tensor) -> Tensor:
        """The z-score [..., 1] of an outcome [..., 1] among those from states [..., O]."""
        return self.score_among(self.members(observation), outcome)

    def score_among(self, members: Tensor, outcome: Tensor) -> Tensor:
        """:meth:`score`, of what :meth:`members` says of the states."""
        mean, log_error = members[..., 1:].mean(-2).split(1, -1)  # [..., 1] each
        spread = _LOG_TO_STD * torch.exp(log_error)
        return ((outcome - mean) / spread).clamp(-self.limit, self.limit)
