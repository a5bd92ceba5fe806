"""Loss of the sequence generator (paper eq. 4)."""

from __future__ import annotations

from dataclasses import dataclass

from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import dispatch
from tensordict.utils import NestedKey

from torchrl_td.modules import TrajectoryGenerator
from torchrl_td.objectives.common import Reduction, WindowLoss, hide_masked


class TrajectoryGeneratorLoss(WindowLoss):
    """Mean squared error of the next state and the next returns-to-go, 1:1.

    Of `Trajectory Diffuser <https://arxiv.org/abs/2407.16142>`_ (Huang et al., 2024), eq. 4.

    A fixed-variance Gaussian likelihood (eq. 4). Where the generator predicts changes, errors
    are measured in units of the change's scale.

    Args:
        generator_network (TrajectoryGenerator): the generator.

    Keyword Args:
        reduction (str, optional): ``"mean"``, which ``None`` stands for, ``"sum"`` or
            ``"none"``.

    Raises:
        InputError: if the reduction is unknown; in use, if an entry is of another shape.
        KeyError: in use, if the batch lacks an entry.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_td.modules import TrajectoryGenerator
        >>> from torchrl_td.networks import TrajectoryTransformer
        >>> from torchrl_td.objectives import TrajectoryGeneratorLoss
        >>> generator = TrajectoryGenerator(TrajectoryTransformer(3, 14, width=32, layers=1))
        >>> loss_module = TrajectoryGeneratorLoss(generator)
        >>> window = TensorDict(
        ...     observation=torch.randn(2, 14, 3),
        ...     returns_to_go=torch.rand(2, 14, 1),
        ...     mask=torch.ones(2, 14, dtype=torch.bool),
        ...     next=TensorDict(
        ...         observation=torch.randn(2, 14, 3),
        ...         returns_to_go=torch.rand(2, 14, 1),
        ...         batch_size=[2, 14],
        ...     ),
        ...     batch_size=[2, 14],
        ... )
        >>> loss_module(window)["loss_generator"].backward()
    """

    @dataclass
    class _AcceptedKeys:
        """Keys of the window, all [B, T, ...].

        Attributes:
            observation: states [B, T, O].
            returns_to_go: scaled returns-to-go [B, T, 1].
            next_observation: the states that follow.
            next_returns_to_go: the returns-to-go that follow.
            mask: [B, T] or [B, T, 1], True for real steps; where it is missing, all are.
            next_known: [B, T, 1], False or 0 where ``next_observation`` is not known and
                teaches nothing; where the entry is missing, all are known.
        """

        observation: NestedKey = "observation"
        returns_to_go: NestedKey = "returns_to_go"
        next_observation: NestedKey = ("next", "observation")
        next_returns_to_go: NestedKey = ("next", "returns_to_go")
        mask: NestedKey = "mask"
        next_known: NestedKey = ("next", "known")

    default_keys = _AcceptedKeys
    default_out_keys = ("loss_generator", "state_error", "returns_error")
    module_reads = ("observation", "returns_to_go", "mask")

    generator_network: TrajectoryGenerator
    generator_network_params: TensorDictParams
    target_generator_network_params: TensorDictParams

    def __init__(
        self, generator_network: TrajectoryGenerator, *, reduction: Reduction | None = "mean"
    ) -> None:
        super().__init__(generator_network, "generator_network", reduction)

    @dispatch(source="keyword_keys")
    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Computes the loss of a batch of windows [T], [B, T] or [A, B, T].

        Returns:
            ``loss_generator`` and, detached, ``state_error`` and ``returns_error``.
        """
        names = ("observation", "returns_to_go", "next_observation", "next_returns_to_go")
        width = getattr(self.generator_network.network, "observation_dim", None)
        entries = self._read(tensordict, *names, O=width)
        now, later = entries[:2], entries[2:]
        real, counted = self._masks(tensordict, now[0])
        observation, returns_to_go = hide_masked(real, *now)
        known = self._known(tensordict, counted, later[0])
        (next_observation,) = hide_masked(known, later[0])
        (next_returns,) = hide_masked(counted, later[1])
        with self.generator_network_params.to_module(self.generator_network):
            state, returns = self.generator_network.predict_raw(observation, returns_to_go, real)
            state_target, returns_target = self.generator_network.targets(
                observation, returns_to_go, next_observation, next_returns
            )
        state_error = (state - state_target).square().where(known.unsqueeze(-1), 0.0)
        if self.reduction == "sum":  # as many numbers as the returns' error has
            state_error = state_error.mean(-1, keepdim=True)
        state_error = self._reduced(state_error, counted)
        returns_error = self._reduced((returns - returns_target).square(), counted)
        loss = state_error + returns_error
        if self.reduction == "none":
            loss = state_error.mean(-1, keepdim=True) + returns_error
        return TensorDict(
            {
                "loss_generator": loss,
                "state_error": state_error.detach(),
                "returns_error": returns_error.detach(),
            }
        )
