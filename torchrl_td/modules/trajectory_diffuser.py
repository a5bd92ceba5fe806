"""The trained parts of a Trajectory Diffuser together, and what is measured on its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from torchrl_td.data.displacement_scale import displacement_scale
from torchrl_td.data.normalizer import Normalizer
from torchrl_td.modules.generator import InverseDynamics, TrajectoryGenerator
from torchrl_td.modules.noise_schedule import NoiseSchedule
from torchrl_td.modules.plan_critic import PlanCritic
from torchrl_td.modules.plan_parts import PlanGenerator, PlanInverseDynamics, PlanValue
from torchrl_td.modules.refiner import DiffusionRefiner, PlanCoordinates
from torchrl_td.modules.returns_limit import ReturnsLimit
from torchrl_td.modules.trajectory_planner import TrajectoryPlanner


@dataclass
class Scales:
    """What is measured on the (normalised) dataset beside the normaliser.

    Attributes:
        displacement: root mean square of s_{t+jm} − s_t, shape [H, O], with m the plan's stride.
        returns_change: root mean square of the scaled returns-to-go's change in m steps, shape [1].

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_td.modules.trajectory_diffuser import Scales
        >>> time = torch.arange(10.0).unsqueeze(-1)
        >>> data = TensorDict(
        ...     observation=2 * time,
        ...     returns_to_go=10 - time,
        ...     episode=torch.zeros(10, dtype=torch.int64),
        ...     next=TensorDict(returns_to_go=9 - time, batch_size=[10]),
        ...     batch_size=[10],
        ... )
        >>> scales = Scales.fit(data, horizon=3)
        >>> scales.displacement.flatten(), scales.returns_change
        (tensor([0., 2., 4.]), tensor([1.]))
    """

    displacement: Tensor
    returns_change: Tensor

    @classmethod
    def fit(cls, normalized: TensorDictBase, horizon: int, stride: int = 1) -> Scales:
        """Measures them on a normalised dataset [N] for plans of a stride."""
        episode = normalized["episode"].reshape(-1)  # [N]
        last = episode[stride - 1 :]  # of the steps before the successors
        start = normalized["returns_to_go"][: len(last)]
        change = normalized["next", "returns_to_go"][stride - 1 :] - start
        change = change[last == episode[: len(last)]]
        returns_change = change.double().square().mean().sqrt().float().clamp(min=1e-6)
        return cls(displacement_scale(normalized, horizon, stride), returns_change.view(1))

    @classmethod
    def empty(cls, horizon: int, observation_dim: int) -> Scales:
        """Of the right shapes, for a checkpoint to fill."""
        return cls(torch.ones(horizon, observation_dim), torch.ones(1))


class TrajectoryDiffuser(nn.Module):
    """The trained parts together, as a checkpoint holds them.

    Args:
        generator: drafts plans; ``None`` for a refiner that starts from noise.
        refiner_network: predicts the noise in a plan.
        schedule: the noise schedule that the network is trained with.
        inverse_dynamics: acts.
        normalizer: fitted on the dataset.
        horizon: H.
        coordinates: the space the diffusion runs in; ``None`` takes the plan itself.
        critic: scores candidate plans.
        plan_value: scores the data's plans in training, where plans are asked for by score.
        returns_limit: the most that is asked for at a reset.

    Examples:
        >>> import torch
        >>> from torchrl.modules import MLP
        >>> from torchrl_td.data import Normalizer
        >>> from torchrl_td.modules import InverseDynamics, NoiseSchedule, TrajectoryGenerator
        >>> from torchrl_td.modules.trajectory_diffuser import TrajectoryDiffuser
        >>> from torchrl_td.networks import TemporalUNet, TrajectoryTransformer
        >>> model = TrajectoryDiffuser(
        ...     TrajectoryGenerator(TrajectoryTransformer(3, 14, width=32, layers=1)),
        ...     TemporalUNet(3, 16, (1, 2)),
        ...     NoiseSchedule(),
        ...     InverseDynamics(MLP(6, 2, num_cells=(32,))),
        ...     Normalizer(torch.zeros(3), torch.ones(3)),
        ...     horizon=8,
        ... )
        >>> history = torch.randn(4, 7, 3), torch.rand(4, 7, 1), torch.ones(4, 7, dtype=torch.bool)
        >>> draft, _, plan, action = model.planner(refine_steps=2).plan(*history)
        >>> plan.shape, action.shape
        (torch.Size([4, 8, 3]), torch.Size([4, 2]))
    """

    def __init__(
        self,
        generator: TrajectoryGenerator | PlanGenerator | None,
        refiner_network: nn.Module,
        schedule: NoiseSchedule,
        inverse_dynamics: InverseDynamics | PlanInverseDynamics,
        normalizer: Normalizer,
        *,
        horizon: int,
        coordinates: PlanCoordinates | None = None,
        critic: PlanCritic | None = None,
        plan_value: PlanValue | None = None,
        returns_limit: ReturnsLimit | None = None,
    ) -> None:
        super().__init__()
        self.horizon = horizon
        self.normalizer = normalizer
        self.generator = generator
        self.refiner_network = refiner_network
        self.coordinates = coordinates or PlanCoordinates()
        self.schedule = schedule
        self.inverse_dynamics = inverse_dynamics
        self.critic = critic
        self.plan_value = plan_value
        self.returns_limit = returns_limit

    def refiner(self, **settings: Any) -> DiffusionRefiner:
        """A sampler around the shared noise model, with a :class:`DiffusionRefiner`'s settings."""
        return DiffusionRefiner(
            self.refiner_network, self.schedule, coordinates=self.coordinates, **settings
        )

    def planner(
        self, *, candidates: int = 1, plan_scores: Sequence[float] | None = None, **settings: Any
    ) -> TrajectoryPlanner:
        """A planner around the shared parts, its refiner with the settings given."""
        return TrajectoryPlanner(
            self.generator,
            self.refiner(**settings),
            self.inverse_dynamics,
            horizon=self.horizon,
            critic=self.critic,
            candidates=candidates,
            plan_scores=None if self.plan_value is None else plan_scores,  # only it gives scores
            plan_value=self.plan_value,
        )

    def parameter_counts(self) -> dict[str, int]:
        """Number of trained parameters of each part."""
        parts: dict[str, nn.Module | None] = {
            "generator": self.generator,
            "refiner": self.refiner_network,
            "inverse_dynamics": self.inverse_dynamics,
            "critic": self.critic,
            "plan_value": self.plan_value,
            "returns_limit": self.returns_limit,
        }
        return {
            name: sum(p.numel() for p in part.parameters())
            for name, part in parts.items()
            if part is not None
        }
