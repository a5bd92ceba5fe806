"""TDPlannerActor: plans with a Trajectory Diffuser inside any TorchRL pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs.transforms import TensorDictPrimer
from torchrl.envs.utils import exploration_type

from torchrl_td.actors.exporting import export_actor
from torchrl_td.actors.planner_state import PlannerState
from torchrl_td.actors.receding_horizon import RecedingHorizon
from torchrl_td.actors.specified_module import SpecifiedModule
from torchrl_td.actors.tensordict_io import (
    action_bounds,
    check_action,
    check_floats,
    check_keys,
    read_entry,
)
from torchrl_td.checkpoint import load_model
from torchrl_td.checkpoint.build import plan_settings
from torchrl_td.config import Config, check_config, override_config
from torchrl_td.data.normalizer import Normalizer
from torchrl_td.errors import InputError, check_number
from torchrl_td.inference import COMPILE_MODES, MODES, make_runner
from torchrl_td.modules import TrajectoryPlanner
from torchrl_td.modules.common import dispatched
from torchrl_td.modules.refiner import DETERMINISTIC
from torchrl_td.modules.trajectory_diffuser import TrajectoryDiffuser
from torchrl_td.modules.trajectory_planner import WarmStart

# What the keys are of, and what to do where one is missing.
_INPUTS = {
    "observation": "see in_keys",
    "target return": "append TargetReturn(..., mode='reduce') to the environment",
    "reset flag": "append InitTracker() to the environment",
}
_OUTPUTS = ("action", "draft", "refined plan")
_KEYS = ("in_keys", "out_keys", "planner_key")


class TDPlannerActor(SpecifiedModule):
    """Plans at every step and returns the plan's first action (paper, appendix Algorithm 1).

    Of `Trajectory Diffuser <https://arxiv.org/abs/2407.16142>`_ (Huang et al., 2024).

    The actor keeps no state of its own. History and last plan live in the tensordict under
    ``"planner"``; append :meth:`make_tensordict_primer` to the environment (collectors with
    ``auto_register_policy_transforms=True`` do it themselves) and they follow each environment
    through resets, batches and worker processes. Observations and ``target_return`` are read
    in the environment's own units: the normaliser is part of the actor.

    Sampling noise is drawn unless the exploration type is deterministic; an entry
    ``("planner", "noise")`` of shape [..., N, draws, H, O] is used in its place if there. If it is
    deterministic the best of several candidates is taken, else one is drawn by their values.

    Args:
        planner: generator, refiner and inverse dynamics.
        normalizer: the dataset's.
        action_spec: the environment's, if actions are to be clipped to its bounds; of one
            environment or a batch, composite or not.
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
        width = normalizer.loc.shape[0]
        needed = planner.observation_dim
        if width != needed:
            raise InputError(
                f"the normalizer is of {width} dimensions, the planner's states {needed}"
            )
        check_number("returns_floor", returns_floor, endless=True)
        self.normalizer = normalizer
        self.horizon = planner.horizon
        self.returns_floor = returns_floor
        self._state = PlannerState(planner_key, planner.horizon, width)
        self._input_keys = check_keys("in_keys", in_keys, list(_INPUTS))
        self._output_keys = check_keys("out_keys", out_keys, _OUTPUTS, fewest=1)
        state_keys = self._state.keys.values()
        self.in_keys = [*self._input_keys, *state_keys]
        self.set_out_keys(self._output_keys, [("next", *key) for key in state_keys])
        low = high = None
        if action_spec is not None:
            action_dim = planner.inverse_dynamics.action_dim
            low, high = action_bounds(action_spec, self._output_keys[0], action_dim)
            low, high = low.to(normalizer.loc.device), high.to(normalizer.loc.device)
        self.register_buffer("action_low", low)
        self.register_buffer("action_high", high)

    @property
    def spec(self) -> Composite:
        """Of what the actor writes for one environment: action, within its bounds, and plans."""
        low, high = self.action_low, self.action_high
        width = self.planner.inverse_dynamics.action_dim
        action = None if width is None else Unbounded((width,))
        plan = Unbounded((self.horizon, self.normalizer.loc.shape[0]))
        return self.specify(action if low is None else Bounded(low, high), plan, plan)

    @property
    def planner_key(self) -> NestedKey:
        """Where the planner's state lives."""
        return self._state.key

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
                ``refine_steps=2, sampler="ddim", evaluations=1``, and ``in_keys``, ``out_keys``
                and ``planner_key`` as the actor itself takes them.

        Raises:
            InputError: if the checkpoint is missing, damaged or foreign, or a setting is wrong.
        """
        keys = {name: overrides.pop(name) for name in _KEYS if name in overrides}
        model, about = load_model(path, device)
        if not isinstance(model, TrajectoryDiffuser):
            name = about["config"]["algorithm"]["name"]
            raise InputError(
                f"the checkpoint {path} holds algorithm {name}, which makes no plans; play it with "
                f"examples/td_evaluate.py"
            )
        given = {f"planner.{key}": value for key, value in overrides.items()}
        config = override_config(check_config(about["config"]), given)
        spec = Bounded(torch.tensor(about["action_low"]), torch.tensor(about["action_high"]))
        return cls.from_model(model, config, action_spec=spec, **keys).eval()

    @classmethod
    def from_model(
        cls,
        model: TrajectoryDiffuser,
        config: Config,
        action_spec: Any | None = None,
        **keys: Any,
    ) -> TDPlannerActor:
        """The planner of trained parts.

        Args:
            model: generator, refiner, inverse dynamics and normaliser.
            config: the settings ``planner``, and the target return the floor is a share of.
            action_spec: the environment's, if actions are to be clipped to its bounds.
            **keys: ``in_keys``, ``out_keys`` and ``planner_key`` of the actor.
        """
        settings = config.planner
        share = settings.returns_floor_share
        return cls(
            model.planner(**plan_settings(settings)),
            model.normalizer,
            action_spec=action_spec,
            replan_every=settings.replan_every,
            warm_start=cast(WarmStart, settings.warm_start),
            refresh_every=settings.refresh_every,
            refresh_distance=settings.refresh_distance,
            returns_floor=None if share is None else share * config.evaluation.target_return,
            **keys,
        )

    def compile(
        self, mode: str = "auto", *, autocast: torch.dtype | None = None, **options: Any
    ) -> TDPlannerActor:
        """Makes the same plans faster from now on.

        Args:
            mode: ``"openvino"`` compiles whole plans for the CPU; ``"cudagraph"`` captures them as
                CUDA graphs; ``"auto"`` fits the device, takes OpenVINO where it is installed, and
                compiles only what is planned often; ``"default"``, ``"reduce-overhead"`` and
                ``"max-autotune"`` are ``torch.compile``'s; ``"none"`` goes back.
            autocast: ``torch.bfloat16`` or ``torch.float16``: half precision on a GPU;
                ``torch.bfloat16`` with OpenVINO, too.
            **options: ``torch.compile``'s, such as ``backend`` and ``fullgraph``: with any, the
                whole forward is compiled as :meth:`torch.nn.Module.compile` does it.

        Returns:
            The actor itself. Copies compile for themselves. Changed weights and settings are
            noticed; after registering a hook call it again.

        Raises:
            InputError: if the mode is unknown, what it needs is missing, or it does not fit the
                device or the options.
        """
        if options:
            if mode not in ("auto", *COMPILE_MODES) or autocast is not None:
                raise InputError(
                    f"{', '.join(options)} go to torch.compile, which knows neither autocast nor "
                    f"the modes {', '.join(m for m in MODES if m not in COMPILE_MODES)}"
                )
            super().compile(**({} if mode == "auto" else {"mode": mode}), **options)
            return self
        self._compiled_call_impl = None
        self.receding_horizon.run_with(
            None
            if mode == "none" and autocast is None
            else partial(make_runner, mode=mode, autocast=autocast)
        )
        return self

    @property
    def compiled_mode(self) -> str:
        """The mode in which plans are made, never ``"auto"``."""
        return getattr(self.receding_horizon.runner, "mode", "none")

    @property
    def planner_spec(self) -> Composite:
        """Spec of one environment's planner state (normalised units).

        ``observation`` [L, O] and ``returns_to_go`` [L, 1] are the history, latest last;
        ``steps`` counts since the reset; ``plan`` [H, O] and ``plan_returns_to_go`` [H, 1]
        are the plan being followed.
        """
        return self._state.spec

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """The transform that puts an empty planner state into an environment at each reset."""
        return self._state.primer(self._output_keys[0])

    @partial(dispatched, auto_batch_size=True)
    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Plans and acts for any batch shape; writes the next planner state under "next"."""
        observation, target, is_init = self._inputs(tensordict)
        state = self._state.read(tensordict, self.normalizer.loc.device, is_init)
        noise = self._noise(tensordict, observation.shape[0])
        greedy = exploration_type() in DETERMINISTIC
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
        floor = self.returns_floor
        returns = target_return if floor is None else target_return.clamp(min=floor)
        state, draft, plan, action = self.receding_horizon(
            state,
            self.normalizer.normalize(observation),
            self.normalizer.scale_returns(returns),
            is_init,
            noise,
            greedy=greedy,
        )
        action = check_action(self._input_keys[0], action)
        if self.action_low is not None:
            action = torch.clamp(action, self.action_low, self.action_high)
        denormalize = self.normalizer.denormalize
        return state, action, denormalize(draft), denormalize(plan)

    def export(self, path: str | Path, *, batch_size: int = 1, noise: bool = False) -> Path:
        """Writes the planner as OpenVINO models, for use without PyTorch.

        ``examples/td_openvino.py`` loads and runs them with OpenVINO and numpy alone.

        Args:
            path: a new or empty folder.
            batch_size: B, how many environments one call plans for.
            noise: whether the models take sampling noise; without, they plan deterministically.

        Returns:
            The folder: ``planner.json``, which says what the models read and write and when to
            call which, and a model for each way to make a step.

        Raises:
            InputError: if OpenVINO is missing, the folder holds something, or a network cannot be
                exported.
        """
        return export_actor(self, Path(path), batch_size, noise)

    def _inputs(self, tensordict: TensorDictBase) -> tuple[Tensor, Tensor, Tensor]:
        """Observation [B, O], target return [B, 1] and reset flag [B, 1], checked."""
        dtype = self.planner.candidate_noise.dtype
        if dtype != torch.float32:
            raise InputError(
                f"the planner is in {dtype}, but needs single precision: actor.float()"
            )
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
        if exploration_type() in DETERMINISTIC:
            return None
        return torch.randn(shape, dtype=torch.float32, device=device)
