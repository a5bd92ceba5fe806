"""
Guidance
========

The refiner's network is trained with the condition and, now and then, without it. Planning asks it
twice and goes further in the direction that the condition made: ε = ε₀ + ω (ε₁ − ε₀),
classifier-free guidance.
"""

import matplotlib.pyplot as plt
import torch

from torchrl_td import TDPlannerActor
from torchrl_td.checkpoint import checkpoint_task
from torchrl_td.demo import CHECKPOINT
from torchrl_td.envs import make_gym_env
from torchrl_td.experiment.plotting import draw_maze

plans = 12
task, _ = checkpoint_task(CHECKPOINT)
maze = make_gym_env(task).unwrapped.maze
noise = torch.Generator().manual_seed(0)

# %%
# ω = 0 is the model without the condition, 1 with it, and what is above exaggerates. To see it,
# the plans are denoised for 60 steps; the few of a refiner leave a draft near where it was.

figure, axes = plt.subplots(1, 4, figsize=(10, 3))
for axis, scale in zip(axes, (0.0, 1.0, 1.5, 4.0), strict=True):
    settings = {"refine_steps": 60, "guidance_scale": scale, "plan_scores": [2.5]}
    actor = TDPlannerActor.from_checkpoint(CHECKPOINT, **settings)
    state = actor.normalizer.normalize(torch.tensor([[0.5, -1.0, 1.5, 0.0, -1.0, 1.0]]))
    history = state.expand(plans, -1).unsqueeze(1), torch.zeros(plans, 1, 1), torch.ones(plans, 1)
    draws = torch.randn(actor.planner.noise_shape(plans), generator=noise)
    with torch.no_grad():
        refined = actor.planner.plan(*history[:2], history[2].bool(), draws)[2]
    draw_maze(axis, maze)
    axis.set(xlim=(-1.7, 1.7), ylim=(-1.7, 1.7))
    for plan in actor.normalizer.denormalize(refined):
        axis.plot(*plan[:, :2].T, "o-", ms=2, lw=0.8, color="#2b6cb0", alpha=0.7)
    axis.set_title(f"ω = {scale:g}")
figure.tight_layout()

# %%
# Each task's file has its ω (``task.guidance_scale``), between 1 and 1.5;
# ``planner.guidance_scale`` changes it for a trained planner.
