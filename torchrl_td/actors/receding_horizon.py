"""When to plan anew and from what: the receding horizon on plain tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, get_args

import torch
from torch import Tensor, nn

from torchrl_td.errors import InputError, check_number, check_whole
from torchrl_td.modules.plan_parts import PlanGenerator
from torchrl_td.modules.trajectory_planner import Plan, TrajectoryPlanner, WarmStart

State = dict[str, Tensor]


class PlanRunner(Protocol):
    """What makes plans: a planner itself, or a faster way of running one."""

    @property
    def plan(self) -> Callable[..., Plan]:
        """As :meth:`TrajectoryPlanner.plan`."""

    @property
    def replan(self) -> Callable[..., Plan]:
        """As :meth:`TrajectoryPlanner.replan`."""


class RecedingHorizon(nn.Module):
    """Keeps history and plan of a batch of environments, and plans when it is due.

    The state of B environments is a dictionary of tensors, empty (all zero) at a reset:
    ``observation`` [B, L, O] and ``returns_to_go`` [B, L, 1], the history with the latest
    entry last; ``steps`` [B, 1] since the reset; ``plan`` [B, H, O] and
    ``plan_returns_to_go`` [B, H, 1], the plan being followed. All normalised.

    Args:
        planner: makes the plans.
        replan_every: steps between plans; in between the plan is followed.
        warm_start: ``"previous"`` refines the last plan, shifted, its tail continued by the
            generator; ``"none"`` drafts anew.
        refresh_every: with a warm start, a full draft is made every so many plans.
        refresh_distance: with a warm start, also where the present state lies further than
            this from the planned one (root mean square over the state's dimensions).

    Raises:
        InputError: if a setting is out of its range.

    Examples:
        Two steps of four environments; the second follows the first one's plan.

        >>> import torch
        >>> from torchrl_td.actors.receding_horizon import RecedingHorizon
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
        >>> receding_horizon = RecedingHorizon(planner, replan_every=2)
        >>> state = {
        ...     "observation": torch.zeros(4, 7, 3),
        ...     "returns_to_go": torch.zeros(4, 7, 1),
        ...     "steps": torch.zeros(4, 1, dtype=torch.int64),
        ...     "plan": torch.zeros(4, 8, 3),
        ...     "plan_returns_to_go": torch.zeros(4, 8, 1),
        ... }
        >>> present, returns_to_go = torch.randn(4, 3), torch.rand(4, 1)
        >>> reset = torch.ones(4, 1, dtype=torch.bool)
        >>> state, draft, plan, action = receding_horizon(state, present, returns_to_go, reset)
        >>> state, _, followed, action = receding_horizon(state, present, returns_to_go, ~reset)
        >>> action.shape, torch.equal(followed, plan)
        (torch.Size([4, 2]), True)
    """

    def __init__(
        self,
        planner: TrajectoryPlanner,
        *,
        replan_every: int = 1,
        warm_start: WarmStart = "none",
        refresh_every: int = 10,
        refresh_distance: float = 0.1,
    ) -> None:
        super().__init__()
        if warm_start not in get_args(WarmStart):
            allowed = ", ".join(get_args(WarmStart))
            raise InputError(f"unknown warm_start {warm_start!r}; allowed are {allowed}")
        if warm_start == "previous" and planner.generator is None:
            raise InputError("warm_start='previous' needs a generator")
        follows = warm_start != "none" or replan_every != 1
        if isinstance(planner.generator, PlanGenerator) and follows:
            raise InputError(
                "a PlanGenerator drafts in one evaluation, for each step anew: it needs "
                "warm_start='none' and replan_every=1"
            )
        check_whole("replan_every", replan_every, 1, planner.horizon - 1)
        check_whole("refresh_every", refresh_every, 1)
        check_number("refresh_distance", refresh_distance, negative=False, endless=True)
        self.planner = planner
        self._make_runner: Callable[[TrajectoryPlanner], PlanRunner] | None = None
        self._made: tuple[PlanRunner, TrajectoryPlanner, torch.device] | None = None
        self.history = planner.horizon - 1
        self.replan_every = replan_every
        self.warm_start = warm_start
        self.refresh_every = refresh_every
        self.refresh_distance = refresh_distance

    def run_with(self, make_runner: Callable[[TrajectoryPlanner], PlanRunner] | None) -> None:
        """Has the same plans made another way from now on.

        Args:
            make_runner: what is to run a planner, made for it where it now is; ``None`` goes back
                to the planner itself.
        """
        self._make_runner, self._made = make_runner, None
        _ = self.runner  # what cannot be is refused here

    @property
    def runner(self) -> PlanRunner:
        """What makes the plans; anew where the planner was replaced or moved."""
        if self._make_runner is None:
            return self.planner
        device = self.planner.candidate_noise.device
        if self._made is None or self._made[1:] != (self.planner, device):
            self._made = (self._make_runner(self.planner), self.planner, device)
        return self._made[0]

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or another process gets: not the compiled code, but how to compile."""
        return {**self.__dict__, "_made": None}

    def forward(
        self,
        state: State,
        present: Tensor,
        returns_to_go: Tensor,
        is_init: Tensor,
        noise: Tensor | None = None,
        greedy: bool = False,
    ) -> tuple[State, Tensor, Tensor, Tensor]:
        """One step of every environment.

        Args:
            state: as above; not changed.
            present: present states [B, O].
            returns_to_go: present returns-to-go [B, 1].
            is_init: bool [B, 1], True where an environment was just reset.
            noise: as in :meth:`TrajectoryPlanner.plan`.
            greedy: likewise.

        Returns:
            The next state, draft [B, H, O], plan [B, H, O] and action [B, A].
        """
        steps = state["steps"].masked_fill(is_init, 0)  # [B, 1]
        state = dict(state)
        for name, latest in (("observation", present), ("returns_to_go", returns_to_go)):
            # where, not a product: what a reset leaves behind may be NaN.
            kept = state[name][:, 1:].masked_fill(is_init.unsqueeze(-1), 0)
            state[name] = torch.cat([kept, latest.unsqueeze(1)], 1)
        if self.replan_every == 1:
            made = self._plan(state, present, returns_to_go, steps, noise, greedy)
        else:
            made = self._plan_or_follow(state, present, returns_to_go, steps, noise, greedy)
        draft, state["plan_returns_to_go"], state["plan"], action = made
        state["steps"] = steps + 1
        return state, draft, state["plan"], action

    def _plan_or_follow(
        self,
        state: State,
        present: Tensor,
        returns: Tensor,
        steps: Tensor,
        noise: Tensor | None,
        greedy: bool,
    ) -> Plan:
        """Plans where it is due; elsewhere the next action of the plan being followed."""
        since = steps % self.replan_every  # [B, 1]
        due = since == 0
        plan, plan_returns = state["plan"], state["plan_returns_to_go"]
        followed = (plan, plan_returns, plan, self._follow(state, present, since))
        # One flag is read back here: skipping a plan is what replan_every is for.
        if not bool(due.any()):
            return followed
        made = self._plan(state, present, returns, steps, noise, greedy)
        return self._pick(due, made, followed)

    def _plan(
        self,
        state: State,
        present: Tensor,
        returns: Tensor,
        steps: Tensor,
        noise: Tensor | None,
        greedy: bool,
    ) -> Plan:
        if self.warm_start == "none":
            return self._cold(state, steps, noise, greedy)
        due = steps % self.replan_every == 0  # [B, 1]; the other rows follow on, whatever they get
        error = (present - state["plan"][:, self.replan_every]).square().mean(-1, keepdim=True)
        fresh = (steps // self.replan_every) % self.refresh_every == 0
        fresh = due & (fresh | ~(error <= self.refresh_distance**2))  # also where it is NaN
        # Read back here, at once: leaving the draft out is what the warm start is for.
        drafts, plans = torch.stack([fresh.sum(), due.sum()]).tolist()
        if drafts == plans:
            return self._cold(state, steps, noise, greedy)
        warm = self.runner.replan(
            state["plan"],
            state["plan_returns_to_go"],
            present,
            returns,
            noise,
            shift=self.replan_every,
            greedy=greedy,
        )
        if not drafts:
            return warm
        return self._pick(fresh, self._cold(state, steps, noise, greedy), warm)

    @staticmethod
    def _pick(rows: Tensor, one: Plan, other: Plan) -> Plan:
        """One plan in some rows [B, 1], the other in the rest."""
        whole = rows.unsqueeze(-1)
        draft, returns, plan, action = map(torch.where, (whole, whole, whole, rows), one, other)
        return draft, returns, plan, action

    def _cold(self, state: State, steps: Tensor, noise: Tensor | None, greedy: bool) -> Plan:
        position = torch.arange(self.history, device=steps.device)
        mask = position >= self.history - 1 - steps  # [B, L]
        history = state["observation"], state["returns_to_go"], mask
        return self.runner.plan(*history, noise, greedy=greedy)

    def _follow(self, state: State, present: Tensor, since: Tensor) -> Tensor:
        """The action [B, A] towards the state planned for the next step."""
        index = (since + 1).unsqueeze(-1).expand(-1, 1, present.shape[-1])
        return self.planner.act(present, state["plan"].gather(1, index).squeeze(1))
