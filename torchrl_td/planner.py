"""TDPlannerActor: plans with a Trajectory Diffuser inside any TorchRL pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor
from torchrl.data import Composite, Unbounded
from torchrl.envs.transforms import TensorDictPrimer
from torchrl.envs.utils import ExplorationType, exploration_type

from torchrl_td.data.normalizer import Normalizer
from torchrl_td.errors import TDError
from torchrl_td.modules import TrajectoryPlanner

WARM_STARTS = ("none", "previous")
_DETERMINISTIC = (ExplorationType.DETERMINISTIC, ExplorationType.MODE, ExplorationType.MEAN)


class TDPlannerActor(TensorDictModuleBase):
    """Plans at every step and returns the plan's first action (paper, appendix Algorithm 1).

    The actor keeps no state of its own. History and last plan live in the tensordict under
    ``"planner"``; append :meth:`make_tensordict_primer` to the environment (collectors with
    ``auto_register_policy_transforms=True`` do it themselves) and they follow each environment
    through resets, batches and worker processes. Observations and ``target_return`` are read
    in the environment's own units: the normaliser is part of the actor.

    Sampling noise is drawn unless the exploration type is deterministic; an entry
    ``("planner", "noise")`` of shape [..., N, draws, H, O] is used in its place if there.

    Args:
        planner: generator, refiner and inverse dynamics.
        normalizer: the dataset's.
        action_spec: the environment's, if actions are to be clipped to its bounds.
        replan_every: steps between plans; in between the plan is followed.
        warm_start: ``"previous"`` shifts the last plan by a step, has the generator continue
            its tail by one state, and refines that in place of a new draft (the real-time
            iteration scheme). ``"none"`` drafts anew.
        refresh_every: with a warm start, a full draft is made every so many plans.
        refresh_distance: with a warm start, also where the present state lies further than
            this from the planned one (root mean square, in standard deviations of the data).
        returns_floor: the returns-to-go asked for never fall below this (reward units).
        in_keys: keys of the observation [..., O], the target return [..., 1] and the reset
            flag [..., 1].
        out_keys: keys of the action [..., A], the draft and the refined plan [..., H, O],
            the plans in the environment's units.
        planner_key: where the planner's state lives.

    Raises:
        TDError: if a setting is out of its range; in use, if the reset flag or the primer is
            missing or (on the CPU; on a GPU the action is NaN) the observation is not finite.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_td import TDPlannerActor
        >>> from torchrl_td.data import Normalizer
        >>> from torchrl_td.modules import (
        ...     DiffusionRefiner,
        ...     InverseDynamics,
        ...     NoiseSchedule,
        ...     TrajectoryGenerator,
        ...     TrajectoryPlanner,
        ... )
        >>> from torchrl_td.networks import MLP, TemporalUNet, TrajectoryTransformer
        >>> planner = TrajectoryPlanner(
        ...     TrajectoryGenerator(TrajectoryTransformer(3, 14, width=32, layers=1)),
        ...     DiffusionRefiner(TemporalUNet(3, 16, (1, 2)), NoiseSchedule(), refine_steps=2),
        ...     InverseDynamics(MLP(6, (32,), 2)),
        ...     horizon=8,
        ... )
        >>> actor = TDPlannerActor(planner, Normalizer(torch.zeros(3), torch.ones(3), 100.0))
        >>> td = TensorDict(
        ...     observation=torch.randn(5, 3),
        ...     target_return=torch.full((5, 1), 90.0),
        ...     is_init=torch.ones(5, 1, dtype=torch.bool),
        ...     planner=actor.planner_spec.zero([5]),
        ...     batch_size=[5],
        ... )
        >>> td = actor(td)
        >>> td["action"].shape, td["plan", "refined"].shape
        (torch.Size([5, 2]), torch.Size([5, 8, 3]))
    """

    def __init__(
        self,
        planner: TrajectoryPlanner,
        normalizer: Normalizer,
        *,
        action_spec: Any | None = None,
        replan_every: int = 1,
        warm_start: str = "none",
        refresh_every: int = 10,
        refresh_distance: float = 0.5,
        returns_floor: float | None = None,
        in_keys: Sequence[NestedKey] = ("observation", "target_return", "is_init"),
        out_keys: Sequence[NestedKey] = ("action", ("plan", "draft"), ("plan", "refined")),
        planner_key: NestedKey = "planner",
    ) -> None:
        super().__init__()
        if warm_start not in WARM_STARTS:
            allowed = ", ".join(WARM_STARTS)
            raise TDError(f"unknown warm_start {warm_start!r}; allowed are {allowed}")
        if warm_start == "previous" and planner.generator is None:
            raise TDError("warm_start='previous' needs a generator")
        if not 1 <= replan_every < planner.horizon:
            raise TDError(
                f"replan_every must lie in 1..{planner.horizon - 1}, got {replan_every}"
            )
        if refresh_every < 1:
            raise TDError(f"refresh_every must be at least 1, got {refresh_every}")
        self.planner = planner
        self.normalizer = normalizer
        self.horizon = planner.horizon
        self.history = planner.horizon - 1
        self.replan_every = replan_every
        self.warm_start = warm_start
        self.refresh_every = refresh_every
        self.refresh_distance = refresh_distance
        self.returns_floor = returns_floor
        self.planner_key = unravel_key(planner_key)
        prefix = (self.planner_key,) if isinstance(self.planner_key, str) else self.planner_key
        self._state_keys = {name: (*prefix, name) for name in self.planner_spec.keys()}
        self._noise_key = (*prefix, "noise")
        self._input_keys = [unravel_key(key) for key in in_keys]
        self._output_keys = [unravel_key(key) for key in out_keys]
        self.in_keys = [*self._input_keys, *self._state_keys.values()]
        self.out_keys = [
            *self._output_keys,
            *(("next", *key) for key in self._state_keys.values()),
        ]
        bounds = None if action_spec is None else getattr(action_spec, "space", None)
        self.register_buffer("action_low", None if bounds is None else bounds.low.float())
        self.register_buffer("action_high", None if bounds is None else bounds.high.float())

    @property
    def planner_spec(self) -> Composite:
        """Spec of one environment's planner state (normalised units).

        ``observation`` [L, O] and ``returns_to_go`` [L, 1] are the history, the last entry
        the latest; ``steps`` counts since the reset; ``plan`` [H, O] and
        ``plan_returns_to_go`` [H, 1] are the plan being followed.
        """
        width = self.normalizer.loc.shape[0]
        return Composite(
            observation=Unbounded((self.history, width)),
            returns_to_go=Unbounded((self.history, 1)),
            steps=Unbounded((1,), dtype=torch.int64),
            plan=Unbounded((self.horizon, width)),
            plan_returns_to_go=Unbounded((self.horizon, 1)),
        )

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """The transform that puts an empty planner state into an environment at each reset."""
        spec = self.planner_spec
        prefix = self._noise_key[:-1]
        for name in reversed(prefix[1:]):
            spec = Composite({name: spec})
        return TensorDictPrimer({prefix[0]: spec}, reset_key="_reset", expand_specs=True)

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Plans and acts for any batch shape; writes the next planner state under "next"."""
        observation, target, is_init = self._inputs(tensordict)
        state = self._state(tensordict, observation.shape[0])
        present = self.normalizer.normalize(observation)
        returns = target if self.returns_floor is None else target.clamp(min=self.returns_floor)
        returns = self.normalizer.scale_returns(returns)
        steps = state["steps"].masked_fill(is_init, 0)  # [B, 1]
        for name, latest in (("observation", present), ("returns_to_go", returns)):
            history = state[name].masked_fill(is_init.unsqueeze(-1), 0)
            state[name] = torch.cat([history[:, 1:], latest.unsqueeze(1)], 1)
        noise = self._noise(tensordict, observation)
        draft, plan, action = self._plan_or_follow(state, present, returns, steps, noise)
        state["steps"] = steps + 1
        self._write(tensordict, state, draft, plan, action)
        return tensordict

    def _plan_or_follow(
        self, state: dict[str, Tensor], present: Tensor, returns: Tensor, steps: Tensor, noise
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Updates the state's plan; returns draft [B, H, O], plan [B, H, O], action [B, A]."""
        since = steps % self.replan_every  # [B, 1]
        if self.replan_every > 1:
            due = since == 0
            # One flag is read back here: skipping a plan is what this setting is for.
            if not bool(due.any()):
                return state["plan"], state["plan"], self._follow(state, present, since)
        draft, draft_returns, plan, action = self._new_plan(state, present, returns, steps, noise)
        if self.replan_every > 1:
            action = torch.where(due, action, self._follow(state, present, since))
            due = due.unsqueeze(-1)
            draft = torch.where(due, draft, state["plan"])
            draft_returns = torch.where(due, draft_returns, state["plan_returns_to_go"])
            plan = torch.where(due, plan, state["plan"])
        state["plan"], state["plan_returns_to_go"] = plan, draft_returns
        return draft, plan, action

    def _new_plan(
        self, state: dict[str, Tensor], present: Tensor, returns: Tensor, steps: Tensor, noise
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        position = torch.arange(self.history, device=present.device)
        mask = position >= self.history - 1 - steps  # [B, L]
        history = (state["observation"], state["returns_to_go"], mask, noise)
        if self.warm_start == "none":
            return self.planner.plan(*history)
        error = (present - state["plan"][:, self.replan_every]).square().mean(-1, keepdim=True)
        fresh = (steps // self.replan_every) % self.refresh_every == 0
        fresh = fresh | (error > self.refresh_distance**2)
        warm = self.planner.replan(
            state["plan"], state["plan_returns_to_go"], present, returns, noise
        )
        # One flag is read back here: leaving the draft out is what the warm start is for.
        if not bool(fresh.any()):
            return warm
        cold = self.planner.plan(*history)
        pick = (fresh.unsqueeze(-1), fresh.unsqueeze(-1), fresh.unsqueeze(-1), fresh)
        draft, draft_returns, plan, action = map(torch.where, pick, cold, warm)
        return draft, draft_returns, plan, action

    def _follow(self, state: dict[str, Tensor], present: Tensor, since: Tensor) -> Tensor:
        """The action [B, A] towards the state planned for the next step."""
        width = present.shape[-1]
        index = (since + 1).unsqueeze(-1).expand(-1, 1, width)
        return self.planner.act(present, state["plan"].gather(1, index).squeeze(1))

    def _inputs(self, tensordict: TensorDictBase) -> tuple[Tensor, Tensor, Tensor]:
        """Observation [B, O], target return [B, 1] and reset flag [B, 1]."""
        values = []
        remedies = ("", "append TargetReturn(...)", "append InitTracker()")
        for key, remedy in zip(self._input_keys, remedies, strict=True):
            value = tensordict.get(key, None)
            if value is None:
                raise TDError(f"the planner found no {key!r}; {remedy or 'see in_keys'}")
            values.append(value)
        observation, target, is_init = values
        width = self.normalizer.loc.shape[0]
        if observation.shape[-1] != width:
            raise TDError(
                f"{self._input_keys[0]!r} has width {observation.shape[-1]}, but the planner was "
                f"trained on {width}; check the environment and its observation keys"
            )
        if observation.device != self.normalizer.loc.device:
            raise TDError(
                f"{self._input_keys[0]!r} is on {observation.device}, the planner on "
                f"{self.normalizer.loc.device}; move one of them, or give the collector "
                f"policy_device"
            )
        observation = observation.reshape(-1, width).float()
        if observation.device.type == "cpu" and not bool(torch.isfinite(observation).all()):
            raise TDError(f"{self._input_keys[0]!r} holds NaN or Inf; the simulation diverged")
        return observation, target.reshape(-1, 1).float(), is_init.reshape(-1, 1)

    def _state(self, tensordict: TensorDictBase, batch: int) -> dict[str, Tensor]:
        state = {}
        for name, key in self._state_keys.items():
            value = tensordict.get(key, None)
            if value is None:
                raise TDError(
                    f"the planner found no {key!r}; append actor.make_tensordict_primer() to "
                    f"the environment's transforms"
                )
            state[name] = value.reshape(batch, *value.shape[tensordict.ndim :])
        return state

    def _noise(self, tensordict: TensorDictBase, observation: Tensor) -> Tensor | None:
        shape = self.planner.noise_shape(observation.shape[0])
        noise = tensordict.get(self._noise_key, None)
        if noise is not None:
            return noise.reshape(shape)
        if exploration_type() in _DETERMINISTIC:
            return None
        return torch.randn(shape, device=observation.device)

    def _write(
        self,
        tensordict: TensorDictBase,
        state: dict[str, Tensor],
        draft: Tensor,
        plan: Tensor,
        action: Tensor,
    ) -> None:
        if self.action_low is not None:
            action = torch.clamp(action, self.action_low, self.action_high)
        denormalize = self.normalizer.denormalize
        outputs = (action, denormalize(draft), denormalize(plan))
        shape = tensordict.batch_size
        for key, value in zip(self._output_keys, outputs, strict=True):
            tensordict.set(key, value.reshape(*shape, *value.shape[1:]))
        for name, key in self._state_keys.items():
            value = state[name]
            tensordict.set(("next", *key), value.reshape(*shape, *value.shape[1:]))
