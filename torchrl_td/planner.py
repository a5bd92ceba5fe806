"""TDPlannerActor: plans with a Trajectory Diffuser inside any TorchRL pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs.transforms import TensorDictPrimer
from torchrl.envs.utils import ExplorationType, exploration_type

from torchrl_td.checkpoint import load_model
from torchrl_td.config import Config, check_config, override_config
from torchrl_td.data.normalizer import Normalizer
from torchrl_td.errors import TDError
from torchrl_td.modules import RecedingHorizon, TrajectoryPlanner
from torchrl_td.modules.build import TrajectoryDiffuser
from torchrl_td.modules.entries import check_entry, check_floats, read_entry, write_entry

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
        self.receding_horizon = RecedingHorizon(
            planner,
            replan_every=replan_every,
            warm_start=warm_start,
            refresh_every=refresh_every,
            refresh_distance=refresh_distance,
        )
        self.normalizer = normalizer
        self.horizon = planner.horizon
        self.returns_floor = returns_floor
        self.planner_key = unravel_key(planner_key)
        prefix = (self.planner_key,) if isinstance(self.planner_key, str) else self.planner_key
        self._state_keys = {name: (*prefix, name) for name in self.planner_spec.keys()}
        self._state_shapes = {name: spec.shape for name, spec in self.planner_spec.items()}
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
    def planner(self) -> TrajectoryPlanner:
        """What makes the plans, on plain tensors."""
        return self.receding_horizon.planner

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, *, device: torch.device | str = "cpu", **overrides: Any
    ) -> TDPlannerActor:
        """The planner of a training run, with no dataset at hand.

        Args:
            path: a run's ``output_dir``, its checkpoint folder, or one checkpoint in it.
            device: where to plan.
            **overrides: settings of :class:`~torchrl_td.config.PlannerConfig`, such as
                ``refine_steps=2, sampler="ddim", evaluations=1``.

        Raises:
            TDError: if the checkpoint is missing, damaged or foreign, or a setting is wrong.
        """
        model, about = load_model(path, device)
        given = {f"planner.{key}": value for key, value in overrides.items()}
        config = override_config(check_config(about["config"]), given)
        spec = Bounded(torch.tensor(about["action_low"]), torch.tensor(about["action_high"]))
        return cls.from_model(model, config, action_spec=spec.to(device)).eval()

    @classmethod
    def from_model(
        cls, model: TrajectoryDiffuser, config: Config, action_spec: Any | None = None
    ) -> TDPlannerActor:
        """The planner of trained parts.

        Args:
            model: generator, refiner, inverse dynamics and normaliser.
            config: the settings ``planner``, and the target return the floor is a share of.
            action_spec: the environment's, if actions are to be clipped to its bounds.
        """
        settings = config.planner
        share = settings.returns_floor_share
        return cls(
            model.planner(settings),
            model.normalizer,
            action_spec=action_spec,
            replan_every=settings.replan_every,
            warm_start=settings.warm_start,
            refresh_every=settings.refresh_every,
            refresh_distance=settings.refresh_distance,
            returns_floor=None if share is None else share * config.evaluation.target_return,
        )

    def compile(self, mode: str = "auto", *, autocast: torch.dtype | None = None) -> TDPlannerActor:  # type: ignore[override]
        """Makes the same plans faster from now on.

        Args:
            mode: ``"packed"`` rearranges the weights for the CPU, anew where they change;
                ``"tape"`` also records a plan's operations and replays them; ``"cudagraph"``
                captures a CUDA graph; ``"auto"`` fits the device; ``"default"``,
                ``"reduce-overhead"``, ``"max-autotune"`` are torch.compile's; ``"none"`` goes back.
            autocast: ``torch.bfloat16`` or ``torch.float16``: half precision on a GPU.

        Returns:
            The actor itself. Copies compile for themselves; after changing a setting call it again.

        Raises:
            TDError: if the mode is unknown or does not fit the device.
        """
        self.receding_horizon.accelerate(mode, autocast)
        return self

    @property
    def planner_spec(self) -> Composite:
        """Spec of one environment's planner state (normalised units).

        ``observation`` [L, O] and ``returns_to_go`` [L, 1] are the history, latest last;
        ``steps`` counts since the reset; ``plan`` [H, O] and ``plan_returns_to_go`` [H, 1]
        are the plan being followed.
        """
        width = self.normalizer.loc.shape[0]
        return Composite(
            observation=Unbounded((self.horizon - 1, width)),
            returns_to_go=Unbounded((self.horizon - 1, 1)),
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
        state = self._state(tensordict)
        noise = self._noise(tensordict, observation.shape[0])
        returns = target if self.returns_floor is None else target.clamp(min=self.returns_floor)
        state, draft, plan, action = self.receding_horizon(
            state,
            self.normalizer.normalize(observation),
            self.normalizer.scale_returns(returns),
            is_init,
            noise,
        )
        if self.action_low is not None:
            action = torch.clamp(action, self.action_low, self.action_high)
        denormalize = self.normalizer.denormalize
        self._write(tensordict, (action, denormalize(draft), denormalize(plan)), state)
        return tensordict

    def _inputs(self, tensordict: TensorDictBase) -> tuple[Tensor, Tensor, Tensor]:
        """Observation [B, O], target return [B, 1] and reset flag [B, 1], checked."""
        remedies = (
            "see in_keys",
            "append TargetReturn(..., mode='reduce') to the environment",
            "append InitTracker() to the environment",
        )
        widths = (self.normalizer.loc.shape[0], 1, 1)
        observation, target, is_init = (
            self._read(tensordict, key, (width,), remedy)
            for key, width, remedy in zip(self._input_keys, widths, remedies, strict=True)
        )
        if is_init.dtype != torch.bool:
            raise TDError(f"{self._input_keys[2]!r} is {is_init.dtype}, but bool is needed")
        observation_key, target_key, _ = self._input_keys
        return check_floats(observation_key, observation), check_floats(target_key, target), is_init

    def _state(self, tensordict: TensorDictBase) -> dict[str, Tensor]:
        remedy = "append actor.make_tensordict_primer() to the environment's transforms"
        found = dict(tensordict.get(self.planner_key, {}).items())
        device = self.normalizer.loc.device
        return {
            name: check_entry(
                found.get(name), tensordict, key, self._state_shapes[name], device, remedy
            )
            for name, key in self._state_keys.items()
        }

    def _noise(self, tensordict: TensorDictBase, batch: int) -> Tensor | None:
        shape = self.planner.noise_shape(batch)
        if tensordict.get(self._noise_key, None) is not None:
            noise = self._read(tensordict, self._noise_key, shape[1:], "leave it out")
            return check_floats(self._noise_key, noise)
        if exploration_type() in _DETERMINISTIC:
            return None
        return torch.randn(shape, device=self.normalizer.loc.device)

    def _read(
        self, tensordict: TensorDictBase, key: NestedKey, shape: Sequence[int], remedy: str
    ) -> Tensor:
        return read_entry(tensordict, key, shape, self.normalizer.loc.device, remedy)

    def _write(
        self, tensordict: TensorDictBase, outputs: tuple[Tensor, ...], state: dict[str, Tensor]
    ) -> None:
        for key, value in zip(self._output_keys, outputs, strict=True):
            write_entry(tensordict, key, value)
        for name, key in self._state_keys.items():
            write_entry(tensordict, ("next", *key), state[name])
