"""
Denoising, step by step
=======================

A diffusion model is trained to say what noise was added to a plan. Run backwards it makes plans of
noise; run for its last steps alone it mends a draft. Here are the frames of both.
"""

import matplotlib.pyplot as plt
import torch

from torchrl_td import TDPlannerActor
from torchrl_td.checkpoint import checkpoint_task
from torchrl_td.demo import CHECKPOINT
from torchrl_td.envs import make_gym_env
from torchrl_td.experiment.plotting import draw_maze

actor = TDPlannerActor.from_checkpoint(CHECKPOINT)
normalizer, refiner = actor.normalizer, actor.planner.refiner
schedule, coordinates = refiner.schedule, refiner.coordinates
state = normalizer.normalize(torch.tensor([0.5, -1.0, 1.5, 0.0, -1.0, 1.0]))
plans = 12
condition, keep = torch.full((plans, 1), 2.0), torch.ones(plans, dtype=torch.bool)
drafts = actor.planner.generator.draft(state.expand(plans, -1), condition)

# %%
# Algorithm 1 of the paper in the library's public pieces: noise the draft to step k, then take
# away what the network says is noise, k times. The first state is where we are and stays there.


@torch.no_grad()
def frames(start: int) -> dict[int, torch.Tensor]:
    """Plans [N, H, O] at each denoising step from `start` down to 0."""
    generator = torch.Generator().manual_seed(0)
    x = coordinates.encode(drafts)
    pinned, found = x[:, 0].clone(), {}
    x = schedule.add_noise(x, torch.randn(x.shape, generator=generator), start)
    for step in range(start, 0, -1):
        x[:, 0] = pinned
        found[step] = coordinates.decode(x)
        predicted = refiner.network(x, torch.full((plans,), step), condition, keep)
        noise = torch.randn(x.shape, generator=generator) if step > 1 else None
        x = schedule.ddpm_step(x, predicted, step, noise)
    x[:, 0] = pinned
    found[0] = coordinates.decode(x)
    return found


# %%
# From step 100, the most noise this schedule has, and from step 5, where a refiner starts: the
# draft has most of the plan already, and five evaluations do in place of a hundred.

task, _ = checkpoint_task(CHECKPOINT)
maze = make_gym_env(task).unwrapped.maze
figure, axes = plt.subplots(2, 4, figsize=(10, 5.4))
for row, shown in zip(axes, ((100, 60, 20, 0), (5, 3, 1, 0)), strict=True):
    made = frames(shown[0])
    for axis, step in zip(row, shown, strict=True):
        draw_maze(axis, maze)
        axis.set(xlim=(-1.7, 1.7), ylim=(-1.7, 1.7))
        for plan in normalizer.denormalize(made[step]):
            axis.plot(*plan[:, :2].T, "o-", ms=2, lw=0.8, color="#2b6cb0", alpha=0.7)
        axis.set_title(f"step {step}")
figure.tight_layout()
