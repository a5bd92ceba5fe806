"""Loss of the diffusion refiner (paper eq. 6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_td.errors import InputError, check_whole
from torchrl_td.modules import DiffusionRefiner
from torchrl_td.objectives.common import (
    Reduction,
    WindowLoss,
    hide_masked,
    repeat_last_real,
)


class DiffusionRefinerLoss(WindowLoss):
    """Mean squared error of the predicted noise, the condition dropped at random (paper eq. 6).

    Of `Trajectory Diffuser <https://arxiv.org/abs/2407.16142>`_ (Huang et al., 2024), eq. 6.

    The plan is the last H entries of the window, from the present on. Its position 0 holds
    the clean present state and carries no loss. Noise, denoising steps and dropped conditions
    are drawn here.

    Args:
        refiner_network (DiffusionRefiner): the refiner.
        horizon (int): H, the plan's length.

    Keyword Args:
        condition_dropout (float): probability with which the condition is dropped.
        max_step (int, optional): denoising steps are drawn from 1..max_step; ``None`` draws
            from the whole schedule, as in the paper. A refiner that only ever starts at
            k ≪ K can be trained where it is used.
        delay_refiner (bool): whether target parameters (the EMA) are kept.
        reduction (str, optional): ``"mean"``, which ``None`` stands for, ``"sum"`` or
            ``"none"``.

    Attributes:
        shard: (which, of how many) equal shares of a batch the rows given are. Noise is drawn
            for the whole batch, so that processes sharing it see what a single one would.

    Raises:
        InputError: if a setting is out of its range; in use, if the windows are shorter than H, or
            an entry is of another shape.
        KeyError: in use, if the batch lacks an entry.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_td.modules import DiffusionRefiner, NoiseSchedule
        >>> from torchrl_td.networks import TemporalUNet
        >>> from torchrl_td.objectives import DiffusionRefinerLoss
        >>> unet = TemporalUNet(3, channels=16, multipliers=(1, 2))
        >>> loss_module = DiffusionRefinerLoss(DiffusionRefiner(unet, NoiseSchedule()), horizon=8)
        >>> window = TensorDict(
        ...     observation=torch.randn(2, 14, 3),
        ...     returns_to_go=torch.rand(2, 14, 1),
        ...     mask=torch.ones(2, 14, dtype=torch.bool),
        ...     batch_size=[2, 14],
        ... )
        >>> loss_module(window)["loss_refiner"].backward()
    """

    @dataclass
    class _AcceptedKeys:
        """Keys of the window.

        Attributes:
            observation: states [B, T, O].
            returns_to_go: scaled returns-to-go [B, T, 1].
            mask: [B, T] or [B, T, 1], True for real steps; where it is missing, all are.
        """

        observation: NestedKey = "observation"
        returns_to_go: NestedKey = "returns_to_go"
        mask: NestedKey = "mask"

    default_keys = _AcceptedKeys
    default_out_keys = ("loss_refiner",)
    module_reads = (None, "returns_to_go")

    refiner_network: DiffusionRefiner
    refiner_network_params: TensorDictParams
    target_refiner_network_params: TensorDictParams

    def __init__(
        self,
        refiner_network: DiffusionRefiner,
        horizon: int,
        *,
        condition_dropout: float = 0.5,
        max_step: int | None = None,
        delay_refiner: bool = False,
        reduction: Reduction | None = "mean",
    ) -> None:
        super().__init__(
            refiner_network,
            "refiner_network",
            reduction,
            create_target_params=delay_refiner,
        )
        check_whole("horizon", horizon, 2)
        denoising_steps = refiner_network.schedule.denoising_steps
        multiple = getattr(refiner_network.network, "horizon_multiple", 1)
        if horizon % multiple:
            raise InputError(
                f"the U-Net halves the plan {multiple.bit_length() - 1} times, so horizon must be "
                f"divisible by {multiple}, got horizon={horizon}"
            )
        if not 0 <= condition_dropout <= 1:
            raise InputError(f"condition_dropout must lie in 0..1, got {condition_dropout}")
        if max_step is not None and not 1 <= max_step <= denoising_steps:
            raise InputError(f"max_step must lie in 1..{denoising_steps}, got {max_step}")
        self.horizon = horizon
        self.condition_dropout = condition_dropout
        self.max_step = max_step or denoising_steps
        self.delay_refiner = delay_refiner
        self.shard = (0, 1)

    @dispatch(source="keyword_keys")
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Computes the loss of a batch of windows [T], [B, T] or [A, B, T].

        Returns:
            ``loss_refiner``.
        """
        width = getattr(self.refiner_network.network, "observation_dim", None)
        observation, returns_to_go = self._read(tensordict, "observation", "returns_to_go", O=width)
        if observation.shape[-2] < self.horizon:
            raise InputError(
                f"the windows have {observation.shape[-2]} steps, fewer than horizon={self.horizon}"
            )
        real, counted = self._masks(tensordict, observation)
        real, counted = real[..., -self.horizon :], counted[..., -self.horizon :]
        plan = repeat_last_real(real, observation[..., -self.horizon :, :])
        (condition,) = hide_masked(real[..., 0], returns_to_go[..., -self.horizon, :])
        rows = plan.reshape(-1, *plan.shape[-2:])  # [B, H, O]
        error = self.noise_error(rows, condition.reshape(-1, 1), *self._draw(rows)).view_as(plan)
        counted = counted & real[..., :1]  # nothing is planned from padding
        counted[..., 0] = False
        return TensorDict({"loss_refiner": self._reduced(error, counted)})

    def _draw(self, plan: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noise [B, H, O], denoising steps [B] and kept conditions [B] for a plan [B, H, O]."""
        which, shares = self.shard
        rows, device = plan.shape[0], plan.device
        batch = rows * shares
        step = torch.randint(1, self.max_step + 1, (batch,), device=device)
        keep = torch.rand(batch, device=device) >= self.condition_dropout
        noise = torch.randn((batch, *plan.shape[1:]), device=device, dtype=plan.dtype)
        mine = slice(which * rows, (which + 1) * rows)
        return noise[mine], step[mine], keep[mine]

    def noise_error(
        self, plan: Tensor, condition: Tensor, noise: Tensor, step: Tensor, keep: Tensor
    ) -> Tensor:
        """Squared error of the predicted noise.

        Args:
            plan: clean normalised plan, shape [B, H, O].
            condition: the present returns-to-go, shape [B, 1].
            noise: shape [B, H, O].
            step: denoising steps k, shape [B].
            keep: bool [B], False where the condition is dropped.

        Returns:
            Shape [B, H, O].
        """
        refiner = self.refiner_network
        with self.refiner_network_params.to_module(refiner):
            clean = refiner.coordinates.encode(plan)
            noisy = refiner.schedule.add_noise(clean, noise, step)
            noisy = torch.cat([clean[:, :1], noisy[:, 1:]], 1)
            predicted = refiner.network(noisy, step, condition, keep)
        return (predicted - noise).square()
