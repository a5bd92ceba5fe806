"""TDPlannerActor: plans with a Trajectory Diffuser inside any TorchRL pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs.transforms import TensorDictPrimer

from torchrl_td.actors.compiling import CompiledActor
from torchrl_td.actors.from_checkpoint import TrainedActor
from torchrl_td.actors.receding_horizon import RecedingHorizon
from torchrl_td.actors.specs import action_bounds, check_apart, check_keys, choice_spec
from torchrl_td.actors.tensordict_io import (
    PlannerState,
    SpecifiedModule,
    check_precision,
    read_entry,
)
from torchrl_td.data.choices import written_choice
from torchrl_td.data.normalizer import Normalizer, check_action, check_floats
from torchrl_td.errors import InputError
from torchrl_td.modules import ReturnsLimit, TrajectoryPlanner
from torchrl_td.modules.common import dispatched
from torchrl_td.modules.trajectory_planner import WarmStart

# What the keys are of, and what to do where one is missing.
_INPUTS = {
    "observation": "see in_keys",
    "target return": "append TargetReturn(..., mode='reduce') to the environment",
    "reset flag": "append InitTracker() to the environment",
}
_OUTPUTS = ("action", "draft", "refined plan")


class TDPlannerActor(TrainedActor, CompiledActor, SpecifiedModule):
    """Plans at every step and returns the plan's first action (paper, appendix Algorithm 1).

    Of `Trajectory Diffuser <https://arxiv.org/abs/2407.16142>`_ (Huang et al., 2024).

    The actor keeps no state of its own. History and last plan live in the tensordict under
    ``"planner"``; append :meth:`make_tensordict_primer` to the environment (collectors with
    ``auto_register_policy_transforms=True`` do it themselves) and they follow each environment
    through resets, batches and worker processes. Observations and ``target_return`` are read
    in the environment's own units: the normaliser is part of the actor.

    Sampling noise is drawn if TorchRL's exploration type is RANDOM, as collectors set it; an entry
    ``("planner", "noise")`` of shape [..., N, draws, H, O] is used in its place if there. One of
    several candidates is then drawn by their values, else the best is taken. Where no type is set,
    as in a plain rollout, the actor is deterministic, unless its plans start from noise.

    Args:
        planner: generator, refiner and inverse dynamics.
        normalizer: the dataset's.
        action_spec: the environment's, if actions are to be clipped to its bounds; of one
            environment or a batch, composite or not. For a planner of choices, what is written:
            a vector with a 1 at the choice (OneHot, if not said) or its number (Categorical).
        replan_every: steps between plans; in between the plan is followed.
        warm_start: ``"previous"`` shifts the last plan by a step, has the generator continue
            its tail by one state, and refines that in place of a new draft (the real-time
            iteration scheme). ``"none"`` drafts anew.
        refresh_every: with a warm start, a full draft is made every so many plans.
        refresh_distance: with a warm start, also where the present state lies further than
            this from the planned one (root mean square, in standard deviations of the data).
        returns_floor_share: the returns-to-go asked for never fall below this share of the target
            return at the reset; ``None`` for no floor. Of a negative target that is itself.
        returns_limit: what the target return at a reset exceeds its limit by is never asked for.
        in_keys: keys of the observation [..., O], the target return [..., 1] and the reset
            flag [..., 1].
        out_keys: keys of the action [..., A], the draft and the refined plan [..., H, O],
            the plans in the environment's units. ``"_"`` leaves one out, as do fewer keys.
        planner_key: where the planner's state lives.

    Raises:
        InputError: if a setting is out of its range or the parts do not fit; in use, if the reset
            flag or the primer is missing or (on the CPU; on a GPU the action is NaN) an entry is
            not finite.

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
        >>> from torchrl.modules import MLP
        >>> from torchrl_td.networks import TemporalUNet, TrajectoryTransformer
        >>> planner = TrajectoryPlanner(
        ...     TrajectoryGenerator(TrajectoryTransformer(3, 14, width=32, layers=1)),
        ...     DiffusionRefiner(TemporalUNet(3, 16, (1, 2)), NoiseSchedule(), refine_steps=2),
        ...     InverseDynamics(MLP(6, 2, num_cells=(32,))),
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
        warm_start: WarmStart = "none",
        refresh_every: int = 10,
        refresh_distance: float = 0.1,
        returns_floor_share: float | None = None,
        returns_limit: ReturnsLimit | None = None,
        in_keys: Sequence[NestedKey] = ("observation", "target_return", "is_init"),
        out_keys: Sequence[NestedKey] = ("action", ("plan", "draft"), ("plan", "refined")),
        planner_key: NestedKey = "planner",
    ) -> None:
        super().__init__()
        self.receding_horizon = RecedingHorizon(
            planner,
            replan_every=replan_every,
            warm_start=warm_start,
            refresh_every=refresh_every,
            refresh_distance=refresh_distance,
        )
        width = normalizer.loc.shape[0]
        needed = planner.observation_dim
        if width != needed:
            raise InputError(
                f"the normalizer is of {width} dimensions, the planner's states {needed}"
            )
        if returns_floor_share is not None and not 0 <= returns_floor_share <= 1:
            raise InputError(f"returns_floor_share must lie in 0..1, got {returns_floor_share}")
        self.normalizer = normalizer
        self.horizon = planner.horizon
        self.returns_floor_share = returns_floor_share
        self.returns_limit = returns_limit
        kept = {"target_return": returns_floor_share, "excess_return": returns_limit}
        numbers = [name for name, used in kept.items() if used is not None]
        self._state = PlannerState(planner_key, planner.horizon, width, numbers)
        self._input_keys = check_keys("in_keys", in_keys, list(_INPUTS))
        self._output_keys = check_keys("out_keys", out_keys, _OUTPUTS, fewest=1)
        check_apart([*self._input_keys, *self._output_keys, self.planner_key])
        state_keys = self._state.keys.values()
        self.in_keys = [*self._input_keys, *state_keys]
        self.set_out_keys(self._output_keys, [("next", *key) for key in state_keys])
        low = high = self.choices = None
        if getattr(planner.inverse_dynamics, "choices", False):
            count = planner.inverse_dynamics.action_dim
            self.choices = choice_spec(action_spec, self._output_keys[0], count)
        elif action_spec is not None:
            action_dim = planner.inverse_dynamics.action_dim
            low, high = action_bounds(action_spec, self._output_keys[0], action_dim)
            low, high = low.to(normalizer.loc.device), high.to(normalizer.loc.device)
        self.register_buffer("action_low", low)
        self.register_buffer("action_high", high)

    @property
    def spec(self) -> Composite:
        """Of what the actor writes for one environment: action, within its bounds, and plans."""
        low, high = self.action_low, self.action_high
        plan = Unbounded((self.horizon, self.normalizer.loc.shape[0]))
        if self.choices is not None:
            return self.specify(self.choices.clone(), plan, plan)
        width = self.planner.inverse_dynamics.action_dim
        action = None if width is None else Unbounded((width,))
        return self.specify(action if low is None else Bounded(low, high), plan, plan)

    @property
    def planner_key(self) -> NestedKey:
        """Where the planner's state lives."""
        return self._state.key

    @property
    def planner(self) -> TrajectoryPlanner:
        """What makes the plans, on plain tensors."""
        return self.receding_horizon.planner

    @property
    def planner_spec(self) -> Composite:
        """Spec of one environment's planner state (normalised units).

        ``observation`` [L, O] and ``returns_to_go`` [L, 1] are the history, latest last;
        ``steps`` counts since the reset; ``plan`` [H, O] and ``plan_returns_to_go`` [H, 1]
        are the plan being followed. With a floor under the returns there is ``target_return``
        [1], asked for at the reset, and with a limit ``excess_return`` [1], what the target
        exceeded it by there (reward units).
        """
        return self._state.spec

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """The transform that puts an empty planner state into an environment at each reset."""
        width = self.planner.inverse_dynamics.action_dim
        return self._state.primer(self._output_keys[0], self.choices, width)

    @partial(dispatched, auto_batch_size=True)
    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Plans and acts for any batch shape; writes the next planner state under "next"."""
        observation, target, is_init = self._inputs(tensordict)
        state = self._state.read(tensordict, self.normalizer.loc.device, is_init)
        noise = self._noise(tensordict, observation.shape[0])
        greedy = self.planner.refiner.deterministic
        state, *outputs = self.step(state, observation, target, is_init, noise, greedy)
        self.write_outputs(tensordict, *outputs)
        self._state.write(tensordict, state)
        return tensordict

    def step(
        self,
        state: dict[str, Tensor],
        observation: Tensor,
        target_return: Tensor,
        is_init: Tensor,
        noise: Tensor | None = None,
        greedy: bool = True,
    ) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """:meth:`forward` on plain tensors of B environments.

        Args:
            state: the parts of :attr:`planner_spec`, each [B, ...].
            observation: [B, O], in the environment's units.
            target_return: [B, 1], likewise.
            is_init: bool [B, 1].
            noise: as in :meth:`TrajectoryPlanner.plan`; so is ``greedy``.
            greedy: see there.

        Returns:
            The next state, action [B, A], draft and refined plan [B, H, O].
        """
        present = self.normalizer.normalize(observation)
        state, asked = self._asked(state, present, target_return, is_init)
        state, draft, plan, action = self.receding_horizon(
            state,
            present,
            self.normalizer.scale_returns(asked),
            is_init,
            noise,
            greedy=greedy,
        )
        action = check_action(self._input_keys[0], action)
        if self.choices is not None:
            action = written_choice(action, self.choices)
        else:
            action = self.normalizer.denormalize_action(action)
        if self.action_low is not None:
            action = torch.clamp(action, self.action_low, self.action_high)
        denormalize = self.normalizer.denormalize
        return state, action, denormalize(draft), denormalize(plan)

    def _asked(
        self, state: dict[str, Tensor], present: Tensor, target_return: Tensor, is_init: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The state with what is kept of the reset, and the returns-to-go asked for [B, 1]."""
        state = dict(state)
        first = is_init | (state["steps"] == 0)  # or the first after steps at random
        if self.returns_limit is not None:
            limit = self.returns_limit.limit(present) * self.normalizer.returns_scale
            excess = (target_return - limit).clamp(min=0)
            state["excess_return"] = torch.where(first, excess, state["excess_return"])
            target_return = target_return - state["excess_return"]
        if self.returns_floor_share is not None:
            at_reset = torch.where(first, target_return, state["target_return"])
            state["target_return"] = at_reset
            floor = torch.minimum(self.returns_floor_share * at_reset, at_reset)
            target_return = torch.maximum(target_return, floor)
        return state, target_return

    def _inputs(self, tensordict: TensorDictBase) -> tuple[Tensor, Tensor, Tensor]:
        """Observation [B, O], target return [B, 1] and reset flag [B, 1], checked."""
        check_precision(self.planner.candidate_noise.dtype)
        loc = self.normalizer.loc
        observation, target, is_init = (
            read_entry(tensordict, key, (width,), loc.device, remedy)
            for key, width, remedy in zip(
                self._input_keys, (loc.shape[0], 1, 1), _INPUTS.values(), strict=True
            )
        )
        if is_init.dtype != torch.bool:
            raise InputError(f"{self._input_keys[2]!r} is {is_init.dtype}, but bool is needed")
        observation_key, target_key, _ = self._input_keys
        return check_floats(observation_key, observation), check_floats(target_key, target), is_init

    def _noise(self, tensordict: TensorDictBase, batch: int) -> Tensor | None:
        shape = self.planner.noise_shape(batch)
        key, device = self._state.noise_key, self.normalizer.loc.device
        if tensordict.get(key, None) is not None:
            return check_floats(key, read_entry(tensordict, key, shape[1:], device, "leave it out"))
        if self.planner.refiner.deterministic:
            return None
        return torch.randn(shape, dtype=torch.float32, device=device)
