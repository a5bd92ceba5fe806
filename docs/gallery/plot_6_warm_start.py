"""
A warm start
============

The next plan differs from the last one by a step. With ``planner.warm_start=previous`` the last
plan is shifted and the generator only continues its tail; the refiner mends the rest.
"""

# %%
# A generator that continues a history state by state, as preset ``paper`` has it; here a small
# recurrent one, trained for some seconds on points that circle.

import matplotlib.pyplot as plt
import torch
from tensordict import TensorDict
from torchrl.modules import MLP

from torchrl_td import (
    DiffusionRefiner,
    InverseDynamics,
    NoiseSchedule,
    TrajectoryGenerator,
    TrajectoryGeneratorLoss,
    TrajectoryPlanner,
)
from torchrl_td.networks import RecurrentTrajectoryModel, TemporalUNet

HORIZON = 16
torch.manual_seed(0)


def circles(count: int, steps: int) -> torch.Tensor:
    """Points that circle with a speed of their own each, [count, steps, 2]."""
    phase, speed = 6.3 * torch.rand(count, 1), 0.15 + 0.15 * torch.rand(count, 1)
    angle = phase + speed * torch.arange(steps)
    return torch.stack([angle.cos(), angle.sin()], -1)


generator = TrajectoryGenerator(
    RecurrentTrajectoryModel(2, "gru", width=32, layers=1),
    predict="change",
    change_scale=torch.full((2,), 0.2),
    returns_change_scale=1.0,
)
loss = TrajectoryGeneratorLoss(generator)
optimizer = torch.optim.Adam(loss.parameters(), lr=5e-3)
nothing = torch.zeros(64, 2 * HORIZON - 2, 1)  # no return is asked for here
for _ in range(200):
    seen = circles(64, 2 * HORIZON - 1)
    window = TensorDict(
        observation=seen[:, :-1],
        returns_to_go=nothing,
        next=TensorDict(
            observation=seen[:, 1:], returns_to_go=nothing, batch_size=nothing.shape[:2]
        ),
        batch_size=nothing.shape[:2],
    )
    optimizer.zero_grad()
    loss(window)["loss_generator"].backward()
    optimizer.step()

# %%
# A planner needs a refiner and an inverse dynamics, too. With ``refine_steps=0`` the draft is the
# plan, so that what is seen is the draft.

planner = TrajectoryPlanner(
    generator,
    DiffusionRefiner(TemporalUNet(2, 16, (1, 2)), NoiseSchedule(), refine_steps=0),
    InverseDynamics(MLP(4, 2, num_cells=[16])),
    horizon=HORIZON,
)
walk = circles(1, 3 * HORIZON)
history = walk[:, : HORIZON - 1]
returns, mask = torch.zeros(1, HORIZON - 1, 1), torch.ones(1, HORIZON - 1, dtype=torch.bool)
with torch.no_grad():
    _, plan_returns, plan, _ = planner.plan(history, returns, mask)
    shift = 4  # steps taken since that plan was made
    present = walk[:, HORIZON - 2 + shift]
    warm, *_ = planner.replan(plan, plan_returns, present, torch.zeros(1, 1), shift=shift)

# %%
# The new draft takes the present from the environment, the next states from the last plan, and its
# last four from the generator, which is asked four times in place of fifteen.

figure, axes = plt.subplots(1, 2, figsize=(8.5, 4.2), sharex=True, sharey=True)
axes[0].plot(*history[0].T, color="#8a8f98", label="history")
axes[0].plot(*plan[0].T, "o-", ms=4, color="#e08a1e", label="last plan")
axes[1].plot(*walk[0, : HORIZON - 1 + shift].T, color="#8a8f98", label="history")
axes[1].plot(*warm[0, :-shift].T, "o-", ms=4, color="#e08a1e", label="shifted")
axes[1].plot(*warm[0, -shift:].T, "o-", ms=4, color="#2b6cb0", label="continued")
for axis in axes:
    axis.plot(*walk[0, HORIZON - 2 + shift * (axis is axes[1])], "o", color="black", ms=6)
    axis.set_aspect("equal")
    axis.legend(frameon=False, loc="center")
figure.tight_layout()

# %%
# Where the state has left the plan by more than ``planner.refresh_distance``, and every
# ``planner.refresh_every`` plans, a draft is made from the history again.
