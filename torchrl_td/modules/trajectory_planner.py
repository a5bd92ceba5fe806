"""One plan on plain tensors: draft, refine, choose, act (paper, appendix Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from torchrl_td.errors import InputError, check_whole
from torchrl_td.modules.fit import (
    check_generator,
    check_inverse_dynamics,
    check_precision,
    check_refiner,
)
from torchrl_td.modules.generator import InverseDynamics, TrajectoryGenerator
from torchrl_td.modules.plan_critic import PlanCritic
from torchrl_td.modules.plan_parts import PlanGenerator, PlanInverseDynamics, PlanValue
from torchrl_td.modules.refiner import DiffusionRefiner

# Draft [B, H, O], its returns-to-go [B, H, 1], refined plan [B, H, O], action [B, A].
Plan = tuple[Tensor, Tensor, Tensor, Tensor]
WarmStart = Literal["none", "previous"]


class TrajectoryPlanner(nn.Module):
    """What runs inside the planning loop.

    Of `Trajectory Diffuser <https://arxiv.org/abs/2407.16142>`_ (Huang et al., 2024), Algorithm 1.

    Everything is normalised, of static shape and on one device; nothing is read back by the
    host. So each method can be compiled and captured in a CUDA graph as it stands.

    Args:
        generator: drafts; ``None`` repeats the present state (for a refiner that starts from
            noise).
        refiner: refines.
        inverse_dynamics: acts.
        horizon: H.
        critic: scores candidates.
        candidates: plans refined from one draft.
        observation_dim: O, if the refiner's network has no ``observation_dim`` that says it.
        plan_scores: the z-scores of :class:`~torchrl_td.modules.PlanValue` that plans are asked
            for, where the parts were trained on them in place of the returns-to-go: first that of
            the draft; of several plans ``plan_value`` chooses.
        plan_value: the value.

    Raises:
        InputError: if the parts do not fit together.

    Examples:
        >>> import torch
        >>> from torchrl_td.modules import (
        ...     DiffusionRefiner,
        ...     InverseDynamics,
        ...     NoiseSchedule,
        ...     TrajectoryGenerator,
        ...     TrajectoryPlanner,
        ... )
        >>> from torchrl.modules import MLP
        >>> from torchrl_td.networks import TemporalUNet, TrajectoryTransformer
        >>> planner = TrajectoryPlanner(
        ...     TrajectoryGenerator(TrajectoryTransformer(3, 14, width=32, layers=1)),
        ...     DiffusionRefiner(TemporalUNet(3, 16, (1, 2)), NoiseSchedule()),
        ...     InverseDynamics(MLP(6, 2, num_cells=(32,))),
        ...     horizon=8,
        ... )
        >>> history = torch.randn(4, 7, 3), torch.rand(4, 7, 1), torch.ones(4, 7, dtype=torch.bool)
        >>> draft, returns_to_go, plan, action = planner.plan(*history)
        >>> plan.shape, action.shape
        (torch.Size([4, 8, 3]), torch.Size([4, 2]))
    """

    candidate_noise: Tensor
    plan_scores: Tensor

    def __init__(
        self,
        generator: TrajectoryGenerator | PlanGenerator | None,
        refiner: DiffusionRefiner,
        inverse_dynamics: InverseDynamics | PlanInverseDynamics,
        *,
        horizon: int,
        critic: PlanCritic | None = None,
        candidates: int = 1,
        observation_dim: int | None = None,
        plan_scores: Sequence[float] | None = None,
        plan_value: PlanValue | None = None,
    ) -> None:
        super().__init__()
        width = observation_dim or getattr(refiner.network, "observation_dim", None)
        if width is None:
            raise InputError("the refiner's network has no observation_dim; give observation_dim")
        check_whole("horizon", horizon, 2)
        check_whole("candidates", candidates, 1)
        if generator is None and refiner.init != "noise":
            raise InputError("a planner without a generator needs a refiner with init='noise'")
        if candidates > 1 and critic is None:
            raise InputError(f"candidates={candidates} needs a critic to choose among them")
        if isinstance(generator, PlanGenerator) and candidates > 1:
            raise InputError("a PlanGenerator's plans are chosen by plan_scores, not by candidates")
        if plan_scores is not None and not isinstance(generator, PlanGenerator):
            raise InputError("plan_scores are what a PlanGenerator's plans are asked for")
        self.generator = generator
        self.refiner = refiner
        self.inverse_dynamics = inverse_dynamics
        self.critic = critic if candidates > 1 else None
        self.horizon = horizon
        self.candidates = candidates
        self.observation_dim: int = width
        several = plan_scores is not None and len(plan_scores) > 1
        if several and plan_value is None:
            raise InputError("several plan_scores need a plan_value to choose among their plans")
        self.plan_value = plan_value if several else None
        scores = None if plan_scores is None else torch.tensor(plan_scores, dtype=torch.float32)
        if scores is not None:
            scores = scores.to(refiner.schedule.beta.device)
        self.register_buffer("plan_scores", scores, persistent=False)
        # Deterministic planning with several candidates needs them to differ all the same: a
        # fixed set of noises, the first of them zero.
        plans = len(scores) if scores is not None and several else candidates
        shape = (plans, refiner.noise_draws, horizon, width)
        generator_of_noise = torch.Generator().manual_seed(0)
        fixed = torch.randn(shape, generator=generator_of_noise, dtype=torch.float32, device="cpu")
        fixed[0] = 0
        # The parts may be on a GPU already.
        fixed = fixed.to(refiner.schedule.beta.device)
        self.register_buffer("candidate_noise", fixed, persistent=False)
        check_refiner(refiner, horizon, width)
        if generator is not None:
            check_generator(generator, horizon, width)
        check_inverse_dynamics(inverse_dynamics, width)
        check_precision(self)

    def noise_shape(self, batch: int) -> tuple[int, ...]:
        """Shape of the noise that :meth:`plan` takes: [B, N, draws, H, O], for N plans."""
        return (batch, *self.candidate_noise.shape)

    def plan(
        self,
        observation: Tensor,
        returns_to_go: Tensor,
        mask: Tensor,
        noise: Tensor | None = None,
        greedy: bool = False,
    ) -> Plan:
        """Drafts a plan from the history, refines it and returns its first action.

        Args:
            observation: history, shape [B, L, O], the present last.
            returns_to_go: shape [B, L, 1].
            mask: bool [B, L], True for real entries.
            noise: standard normal, shape :meth:`noise_shape`; ``None`` plans without.
            greedy: whether the best of several candidates is taken with noise, too, in place of
                one drawn by their values.

        Returns:
            Draft [B, H, O], its returns-to-go [B, H, 1], refined plan [B, H, O], action [B, A].
        """
        if self.plan_value is not None:
            return self._propose(observation[:, -1], returns_to_go[:, -1:], noise)
        returns_to_go = self._asked(returns_to_go)
        if self.generator is None:
            draft = observation[:, -1:].expand(-1, self.horizon, -1)
            returns = returns_to_go[:, -1:].expand(-1, self.horizon, -1)
        else:
            draft, returns = self.generator.generate(
                observation, returns_to_go, mask, self.horizon - 1
            )
        return draft, returns, *self._finish(draft, returns_to_go[:, -1], noise, greedy)

    def replan(
        self,
        plan: Tensor,
        plan_returns: Tensor,
        present: Tensor,
        returns_to_go: Tensor,
        noise: Tensor | None = None,
        shift: int = 1,
        greedy: bool = False,
    ) -> Plan:
        """:meth:`plan` from the last plan: shifted, its tail continued by the generator.

        Args:
            plan: the last plan [B, H, O].
            plan_returns: its returns-to-go [B, H, 1].
            present: the present state [B, O].
            returns_to_go: the present returns-to-go [B, 1].
            noise: as in :meth:`plan`.
            shift: steps taken since that plan was made, 1 to H − 1.
            greedy: as in :meth:`plan`.
        """
        assert self.generator is not None
        returns_to_go = self._asked(returns_to_go)
        states = torch.cat([present.unsqueeze(1), plan[:, shift + 1 :]], 1)  # [B, H - shift, O]
        returns = torch.cat([returns_to_go.unsqueeze(1), plan_returns[:, shift + 1 :]], 1)
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        tail, tail_returns = self.generator.generate(states, returns, mask, shift)
        draft = torch.cat([states, tail[:, 1:]], 1)
        draft_returns = torch.cat([returns, tail_returns[:, 1:]], 1)
        return draft, draft_returns, *self._finish(draft, returns_to_go, noise, greedy)

    def act(self, present: Tensor, planned: Tensor) -> Tensor:
        """The action [B, A] towards a planned state, both [B, O]."""
        return self.inverse_dynamics.act(present, planned).to(present.dtype)

    def _asked(self, returns_to_go: Tensor) -> Tensor:
        """The condition of the plans, of the returns-to-go's shape."""
        if self.plan_scores is None:
            return returns_to_go
        return self.plan_scores[0].expand_as(returns_to_go)

    def _begin(self, plan: Tensor, condition: Tensor) -> Tensor:
        """The first action [B, A] of plans [B, H, O] made for conditions [B, 1]."""
        if isinstance(self.inverse_dynamics, PlanInverseDynamics):
            return self.inverse_dynamics.act_on(plan, condition).to(plan.dtype)
        return self.act(plan[:, 0], plan[:, 1])

    def _propose(self, present: Tensor, returns_to_go: Tensor, noise: Tensor | None) -> Plan:
        """Drafts for N scores, each refined, and of all of them the one of the highest value.

        How good a plan there is depends on the state: where the data has but one way on, plans
        asked to be far better than that are none. A plan's value is the mean of its states'.
        """
        assert isinstance(self.generator, PlanGenerator) and self.plan_value is not None
        batch, count = present.shape[0], len(self.plan_scores)
        condition = self.plan_scores.repeat(batch).unsqueeze(-1)  # [B N, 1]
        plans = self.generator.draft(present.repeat_interleave(count, 0), condition)
        drafts = plans.unflatten(0, (batch, count))  # [B, N, H, O]
        refined = self.refiner.refine(
            plans, condition, None if noise is None else noise.flatten(0, 1)
        )
        proposals = torch.cat([drafts, refined.unflatten(0, (batch, count))], 1)  # [B, 2 N, H, O]
        value = self.plan_value.value(proposals[:, :, 1:]).mean((-1, -2))  # [B, 2 N]
        best, rows = value.argmax(-1), torch.arange(batch, device=present.device)
        plan, score = proposals[rows, best], self.plan_scores[best % count].unsqueeze(-1)
        returns = returns_to_go.expand(-1, self.horizon, -1)
        return drafts[:, 0], returns, plan, self._begin(plan, score)

    def _finish(
        self, draft: Tensor, returns_to_go: Tensor, noise: Tensor | None, greedy: bool
    ) -> tuple[Tensor, Tensor]:
        if self.critic is None:
            refined = self.refiner.refine(
                draft, returns_to_go, None if noise is None else noise[:, 0]
            )
            return refined, self._begin(refined, returns_to_go)
        return self._choose(draft, returns_to_go, noise, greedy)

    def _choose(
        self, draft: Tensor, returns_to_go: Tensor, noise: Tensor | None, greedy: bool
    ) -> tuple[Tensor, Tensor]:
        """Refines N candidates in one batch and picks one by its value.

        With noise the pick is drawn from a softmax over the values, as in the authors' code;
        without, or if asked to be greedy, it is the best.
        """
        assert self.critic is not None
        batch, count = draft.shape[0], self.candidates
        fixed = self.candidate_noise.expand(batch, -1, -1, -1, -1)
        returns_to_go = returns_to_go.repeat_interleave(count, 0)
        refined = self.refiner.refine(
            draft.repeat_interleave(count, 0),
            returns_to_go,
            (fixed if noise is None else noise).flatten(0, 1),
        )
        action = self._begin(refined, returns_to_go)
        value = self.critic.value(refined[:, 0], action).view(batch, count)
        if noise is not None and not greedy:
            # Gumbel-max: argmax of logits + Gumbel noise samples the softmax.
            value = value - torch.empty_like(value).exponential_().log()
        rows = torch.arange(batch, device=draft.device) * count + value.argmax(-1)
        return refined[rows], action[rows]
