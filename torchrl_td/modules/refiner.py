"""The guided diffusion refiner: optimises a draft (paper section 4.3, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.envs.utils import ExplorationType, exploration_type

from torchrl_td.errors import InputError, check_number
from torchrl_td.modules.noise_schedule import NoiseSchedule
from torchrl_td.modules.plan_coordinates import PlanCoordinates
from torchrl_td.networks import TemporalUNet

SAMPLERS = ("ddpm", "ddim")
INITS = ("draft", "noise")
# Exploration types for which a plan is made without sampling noise.
DETERMINISTIC = (ExplorationType.DETERMINISTIC, ExplorationType.MODE, ExplorationType.MEAN)
_MOST_SIGNAL = 0.1  # left at the step that a sample from pure noise is taken to be at


class DiffusionRefiner(TensorDictModuleBase):
    """Runs the last denoising steps of a returns-conditioned diffusion model on a draft.

    With ``init="noise"`` it ignores the draft but for its first state and samples a plan from
    pure noise, as Decision Diffuser does; that wants a schedule which ends at noise.

    Args:
        network: the noise model.
        schedule: the noise schedule it was trained with.
        refine_steps: k, the step the draft is taken to be at; 0 returns the draft.
        sampler: ``"ddpm"`` (k evaluations) or ``"ddim"``.
        evaluations: with ``"ddim"``, network evaluations (1 to k); ``None`` makes k.
        guidance_scale: ω of classifier-free guidance (eq. 11); 1 is the conditional model
            alone, 0 the unconditional one, and both need one pass only.
        temperature: factor on the sampler's noise.
        add_noise: whether the draft is noised to step k first (Algorithm 1, line 1).
        init: ``"draft"`` or ``"noise"``.
        coordinates: the space the diffusion runs in; ``None`` takes the plan itself.
        in_keys: keys of the draft [B, H, O] and of the present returns-to-go [B, 1].
        out_keys: key of the refined plan [B, H, O].

    Raises:
        InputError: if a setting is out of its range, or the schedule does not end at noise where
            ``init="noise"`` starts.

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
        network: TemporalUNet,
        schedule: NoiseSchedule,
        *,
        refine_steps: int = 5,
        sampler: str = "ddpm",
        evaluations: int | None = None,
        guidance_scale: float = 1.2,
        temperature: float = 1.0,
        add_noise: bool = True,
        init: str = "draft",
        coordinates: PlanCoordinates | None = None,
        in_keys: Sequence[NestedKey] = (("plan", "draft"), "returns_to_go"),
        out_keys: Sequence[NestedKey] = (("plan", "refined"),),
    ) -> None:
        super().__init__()
        if sampler not in SAMPLERS:
            raise InputError(f"unknown sampler {sampler!r}; allowed are {', '.join(SAMPLERS)}")
        if init not in INITS:
            raise InputError(f"unknown init {init!r}; allowed are {', '.join(INITS)}")
        if sampler == "ddpm" and evaluations not in (None, refine_steps):
            raise InputError("evaluations below refine_steps need sampler='ddim', got 'ddpm'")
        check_number("temperature", temperature, negative=False)
        check_number("guidance_scale", guidance_scale)
        self.network = network
        self.schedule = schedule
        self.coordinates = coordinates or PlanCoordinates()
        self.refine_steps = refine_steps
        self.sampler = sampler
        self.guidance_scale = guidance_scale
        self.temperature = temperature
        self.add_noise = add_noise
        self.init = init
        self.steps = schedule.sampling_steps(refine_steps, evaluations)
        self._check_start()
        steps = torch.tensor(self.steps, dtype=torch.float32, device=schedule.beta.device)
        self.register_buffer("_step_values", steps, persistent=False)
        self.in_keys = list(in_keys)
        self.out_keys = list(out_keys)

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
    def settings(self) -> tuple[str | float, ...]:
        """The names and numbers that :meth:`refine` depends on: a recording of it holds for one set
        of them."""
        how = (self.sampler, self.guidance_scale, self.temperature, self.add_noise, self.init)
        return (*how, *self.steps)

    @property
    def noise_draws(self) -> int:
        """How many noise tensors :meth:`refine` uses: one to start, one per DDPM step but the
        last."""
        if not self.steps:
            return 0
        return len(self.steps) if self.sampler == "ddpm" else 1

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Refines the draft; without sampling noise if the exploration type is deterministic."""
        draft, returns_to_go = (tensordict.get(key) for key in self.in_keys)
        noise = None
        if exploration_type() not in DETERMINISTIC:
            shape = (draft.shape[0], self.noise_draws, *draft.shape[1:])
            noise = torch.randn(shape, dtype=draft.dtype, device=draft.device)
        return tensordict.set(self.out_keys[0], self.refine(draft, returns_to_go, noise))

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
        step_parts, condition_part = self._embeddings(returns_to_go)
        following = [*self.steps[1:], 0]
        for i, (step, to_step) in enumerate(zip(self.steps, following, strict=True)):
            predicted = self._guided_noise(x, step_parts[i] + condition_part)
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
            return first.clone()
        return self.schedule.add_noise(x, first, self.steps[0]) if self.add_noise else x.clone()

    def _embeddings(self, returns_to_go: Tensor) -> tuple[Tensor, Tensor]:
        """What steps and condition add inside the U-Net: [steps, ΣC] and [P·B, ΣC].

        P is the number of passes that guidance needs, without and with the condition.
        """
        step_parts = self.network.project(self.network.embed_step(self._step_values), None)
        embedding = self.network.embed_condition(returns_to_go)
        nothing = torch.zeros_like(embedding)
        if self.guidance_scale == 0.0:
            embedding = nothing
        elif self.guidance_scale != 1.0:
            embedding = torch.cat([nothing, embedding])
        return step_parts, self.network.project(None, embedding)

    def _guided_noise(self, x: Tensor, projected: Tensor) -> Tensor:
        """ε̂ = ε_∅ + ω (ε_y − ε_∅), both passes in one batch (eq. 11)."""
        passes = 1 if self.guidance_scale in (0.0, 1.0) else 2
        predicted = self.network.run(torch.cat([x] * passes), projected).to(x.dtype)
        if passes == 1:
            return predicted
        unconditional, conditional = predicted.chunk(2)
        return torch.lerp(unconditional, conditional, self.guidance_scale)
