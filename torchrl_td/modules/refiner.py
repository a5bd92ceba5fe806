"""The guided diffusion refiner: optimises a draft (paper section 4.3, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, exploration_type

from torchrl_td.errors import InputError, check_number
from torchrl_td.modules.common import KeyedModule, dispatched, inverse
from torchrl_td.modules.noise_schedule import NoiseSchedule

Sampler = Literal["ddpm", "ddim"]
Init = Literal["draft", "noise"]
_MOST_SIGNAL = 0.1  # left at the step that a sample from pure noise is taken to be at


class PlanCoordinates(nn.Module):
    """Maps a plan of normalised states to the space the diffusion runs in, and back.

    Without a scale, as in the paper, that is the plan itself. There σ = 0.083 at k = 5 can be
    several times what a state changes by in one step, so refining drowns the very difference
    the inverse dynamics reads. With a scale, position j > 0 holds the displacement from the
    present state in units of its root mean square at that lag, and the noise is small
    beside the change at *every* position. Position 0 always holds the present state.

    Args:
        scale: root mean square of s_{t+j} − s_t, shape [H, O] (see
            :func:`~torchrl_td.data.displacement_scale`), 0 for constant dimensions;
            ``None`` for the paper's coordinates.

    Raises:
        InputError: if ``scale`` is not a matrix.

    Examples:
        >>> import torch
        >>> from torchrl_td.modules import PlanCoordinates
        >>> plan = torch.tensor([[[1.0], [1.5], [2.0]]])
        >>> PlanCoordinates(torch.tensor([[0.0], [0.5], [1.0]])).encode(plan).flatten()
        tensor([1., 1., 1.])
    """

    scale: Tensor | None

    def __init__(self, scale: Tensor | None = None) -> None:
        super().__init__()
        if scale is not None and scale.ndim != 2:
            raise InputError(f"the scale must have shape [H, O], got {list(scale.shape)}")
        self.register_buffer("scale", None if scale is None else scale.float())

    def encode(self, plan: Tensor) -> Tensor:
        """Plan [B, H, O] of normalised states -> coordinates [B, H, O]."""
        if self.scale is None:
            return plan
        present = plan[:, :1]
        # Taken from the scale each time: a copy kept beside it would outlive a loaded checkpoint.
        return torch.cat([present, (plan[:, 1:] - present) * inverse(self.scale[1:])], 1)

    def decode(self, x: Tensor) -> Tensor:
        """Coordinates [B, H, O] -> plan [B, H, O] of normalised states."""
        if self.scale is None:
            return x
        present = x[:, :1]
        return torch.cat([present, present + x[:, 1:] * self.scale[1:]], 1)


class DiffusionRefiner(KeyedModule):
    """Runs the last denoising steps of a returns-conditioned diffusion model on a draft.

    Of `Trajectory Diffuser <https://arxiv.org/abs/2407.16142>`_ (Huang et al., 2024), section 4.3.

    With ``init="noise"`` it ignores the draft but for its first state and samples a plan from
    pure noise, as Decision Diffuser does; that wants a schedule which ends at noise.

    Args:
        network: the noise model: any module that predicts the noise [B, H, O] in a noisy plan as
            ``network(plan, step, condition, keep)`` does, from denoising steps [B], returns-to-go
            [B, 1] and a bool [B], False where the condition is dropped. If it has a ``project``
            and a ``run`` as :class:`~torchrl_td.networks.TemporalUNet` does, what steps and
            condition add is computed once for all steps. It may say ``horizon_multiple``, by which
            H must be divisible, and ``observation_dim``.
        schedule: the noise schedule it was trained with.
        refine_steps: k, the step the draft is taken to be at; 0 returns the draft.
        sampler: ``"ddpm"`` (k evaluations) or ``"ddim"``.
        evaluations: with ``"ddim"``, network evaluations (1 to k); ``None`` makes k.
        guidance_scale: ω of classifier-free guidance (eq. 11); 1 is the conditional model
            alone, 0 the unconditional one, and both need one pass only.
        temperature: factor on the noise of the sampler's steps, and on what a plan from noise
            starts from; not on what a draft is noised by.
        add_noise: whether the draft is noised to step k first (Algorithm 1, line 1).
        init: ``"draft"`` or ``"noise"``.
        coordinates: the space the diffusion runs in; ``None`` takes the plan itself.
        clip_range: largest entry of the clean plan that a step may predict, in these coordinates;
            ``None`` for any.
        in_keys: keys of the draft [..., H, O] and of the present returns-to-go [..., 1], or of a
            history of them [..., T, 1], whose last is taken.
        out_keys: key of the refined plan [..., H, O].

    Raises:
        InputError: if a setting is out of its range, or the schedule does not end at noise where
            ``init="noise"`` starts.
        KeyError: in use, if an entry is missing.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_td.modules import DiffusionRefiner, NoiseSchedule
        >>> from torchrl_td.networks import TemporalUNet
        >>> unet = TemporalUNet(11, channels=16, multipliers=(1, 2))
        >>> refiner = DiffusionRefiner(unet, NoiseSchedule(), refine_steps=5)
        >>> td = TensorDict(
        ...     plan=TensorDict(draft=torch.randn(2, 16, 11), batch_size=[2]),
        ...     returns_to_go=torch.ones(2, 1),
        ...     batch_size=[2],
        ... )
        >>> td = refiner(td)
        >>> bool((td["plan", "refined"][:, 0] == td["plan", "draft"][:, 0]).all())
        True
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        *,
        refine_steps: int = 5,
        sampler: Sampler = "ddpm",
        evaluations: int | None = None,
        guidance_scale: float = 1.2,
        temperature: float = 1.0,
        add_noise: bool = True,
        init: Init = "draft",
        coordinates: PlanCoordinates | None = None,
        clip_range: float | None = None,
        in_keys: Sequence[NestedKey] = (("plan", "draft"), "returns_to_go"),
        out_keys: Sequence[NestedKey] = (("plan", "refined"),),
    ) -> None:
        super().__init__()
        for name, value, kind in (("sampler", sampler, Sampler), ("init", init, Init)):
            if value not in get_args(kind):
                allowed = ", ".join(get_args(kind))
                raise InputError(f"unknown {name} {value!r}; allowed are {allowed}")
        if sampler == "ddpm" and evaluations not in (None, refine_steps):
            raise InputError("evaluations below refine_steps need sampler='ddim', got 'ddpm'")
        check_number("temperature", temperature, negative=False)
        check_number("guidance_scale", guidance_scale)
        check_number("clip_range", clip_range, negative=False)
        self.network: Any = network
        self.schedule = schedule
        self.coordinates = coordinates or PlanCoordinates()
        self.sampler = sampler
        self.guidance_scale = guidance_scale
        self.temperature = temperature
        self.add_noise = add_noise
        self.init = init
        self.clip_range = clip_range
        self.steps = schedule.sampling_steps(refine_steps, evaluations)
        self._check_start()
        steps = torch.tensor(self.steps, dtype=torch.int64, device=schedule.beta.device)
        self.register_buffer("_step_values", steps, persistent=False)
        self.in_keys = list(in_keys)
        self.out_keys = list(out_keys)

    @property
    def refine_steps(self) -> int:
        """k, the step that the draft is taken to be at."""
        return self.steps[0] if self.steps else 0

    def _check_start(self) -> None:
        if self.init != "noise" or not self.steps:
            return
        left = self.schedule.signal_left(self.steps[0])
        if left > _MOST_SIGNAL:
            raise InputError(
                f"init='noise' starts from pure noise, but at refine_steps={self.refine_steps} "
                f"this schedule leaves {left:.0%} of the plan; train with schedule='cosine', and "
                f"set refine_steps to its denoising_steps"
            )

    @property
    def noise_draws(self) -> int:
        """How many noise tensors :meth:`refine` uses: one to start, one per DDPM step but the
        last."""
        if not self.steps:
            return 0
        return len(self.steps) if self.sampler == "ddpm" else 1

    @property
    def deterministic(self) -> bool:
        """Whether TorchRL's exploration type has plans made without sampling noise.

        Where none is set they are, as TorchRL's own policies act, but for a plan that starts from
        noise.
        """
        kind = exploration_type()
        return self.init == "draft" if kind is None else kind is not ExplorationType.RANDOM

    @dispatched
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Refines the draft, without sampling noise if :attr:`deterministic`."""
        draft, returns_to_go = self.read_entries(tensordict)
        if returns_to_go.ndim == draft.ndim:
            returns_to_go = returns_to_go[..., -1, :]
        rows = draft.reshape(-1, *draft.shape[-2:])  # [B, H, O]
        noise = None
        if not self.deterministic:
            shape = (rows.shape[0], self.noise_draws, *rows.shape[1:])
            noise = torch.randn(shape, dtype=draft.dtype, device=draft.device)
        plan = self.refine(rows, returns_to_go.reshape(-1, 1), noise)
        return self.write_entries(tensordict, plan.reshape(draft.shape))

    def refine(self, draft: Tensor, returns_to_go: Tensor, noise: Tensor | None = None) -> Tensor:
        """Algorithm 1 on plain tensors, with static shapes and no wait for the device.

        Args:
            draft: shape [B, H, O], the present state first, normalised.
            returns_to_go: the present returns-to-go y, scaled, shape [B, 1].
            noise: standard normal, shape [B, ``noise_draws``, H, O]; ``None`` samples
                without noise.

        Returns:
            The refined plan [B, H, O].
        """
        if not self.steps:
            return draft
        x = self.coordinates.encode(draft)
        present = x[:, 0]
        x = self._start(x, noise)
        x[:, 0] = present
        predict = self._noise_model(returns_to_go)
        following = [*self.steps[1:], 0]
        for i, (step, to_step) in enumerate(zip(self.steps, following, strict=True)):
            predicted = self._guided_noise(x, predict, i)
            if self.clip_range is not None:
                predicted = self.schedule.clipped_noise(x, predicted, step, self.clip_range)
            if self.sampler == "ddim":
                x = self.schedule.ddim_step(x, predicted, step, to_step)
            else:
                draw = None if noise is None or to_step == 0 else noise[:, i + 1]
                x = self.schedule.ddpm_step(x, predicted, step, draw, self.temperature)
            x[:, 0] = present  # pinned after every step
        return self.coordinates.decode(x)

    def _start(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """The sample to start from, in memory of its own."""
        first = torch.zeros_like(x) if noise is None else noise[:, 0]
        if self.init == "noise":
            return self.temperature * first
        return self.schedule.add_noise(x, first, self.steps[0]) if self.add_noise else x.clone()

    def _noise_model(self, returns_to_go: Tensor) -> Callable[[Tensor, int], Tensor]:
        """The network as a function of P·B plans and the number of the step, conditions bound.

        P is the number of passes that guidance needs, without and with the condition.
        """
        if hasattr(self.network, "project"):
            return self._projected(returns_to_go)
        batch, passes = returns_to_go.shape[0], self._passes
        condition = torch.cat([returns_to_go] * passes)
        keep = torch.ones_like(condition[:, 0], dtype=torch.bool)
        if self.guidance_scale != 1.0:
            keep[:batch] = False
        return lambda x, i: self.network(
            x, self._step_values[i].expand(passes * batch), condition, keep
        )

    def _projected(self, returns_to_go: Tensor) -> Callable[[Tensor, int], Tensor]:
        """:meth:`_noise_model` of a network that can say apart what steps and condition add."""
        steps = self.network.project(self.network.embed_step(self._step_values), None)  # [k, ΣC]
        embedding = self.network.embed_condition(returns_to_go)
        nothing = torch.zeros_like(embedding)
        if self.guidance_scale == 0.0:
            embedding = nothing
        elif self.guidance_scale != 1.0:
            embedding = torch.cat([nothing, embedding])
        condition = self.network.project(None, embedding)  # [P·B, ΣC]
        return lambda x, i: self.network.run(x, steps[i] + condition)

    @property
    def _passes(self) -> int:
        return 1 if self.guidance_scale in (0.0, 1.0) else 2

    def _guided_noise(
        self, x: Tensor, predict: Callable[[Tensor, int], Tensor], number: int
    ) -> Tensor:
        """ε̂ = ε_∅ + ω (ε_y − ε_∅), both passes in one batch (eq. 11)."""
        predicted = predict(torch.cat([x] * self._passes), number).to(x.dtype)
        if self._passes == 1:
            return predicted
        unconditional, conditional = predicted.chunk(2)
        return torch.lerp(unconditional, conditional, self.guidance_scale)
