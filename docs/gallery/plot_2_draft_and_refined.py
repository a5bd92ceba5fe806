"""
Draft and refined plan
======================

The generator drafts a plan in one evaluation; the refiner runs the last denoising steps of a
diffusion model on it; a value says which of several to follow.
"""

# %%
# A state in the maze, in the environment's units: position, velocity, goal. The parts work on
# normalised ones.

import matplotlib.pyplot as plt
import torch

from torchrl_td import TDPlannerActor
from torchrl_td.checkpoint import checkpoint_task
from torchrl_td.demo import CHECKPOINT
from torchrl_td.envs import make_gym_env
from torchrl_td.experiment.plotting import draw_maze

actor = TDPlannerActor.from_checkpoint(CHECKPOINT)
planner, normalizer = actor.planner, actor.normalizer
present = torch.tensor([0.5, -1.0, 1.5, 0.0, -1.0, 1.0])
state = normalizer.normalize(present)

# %%
# The condition is how good a plan is asked for: in a maze, with preset ``strided``, a score, in
# standard deviations above the usual outcome from this state; in preset ``paper`` the return still
# to be gained.

scores = planner.plan_scores
condition = scores.unsqueeze(-1)  # [N, 1]
with torch.no_grad():
    drafts = planner.generator.draft(state.expand(len(scores), -1), condition)  # [N, H, O]
    refined = planner.refiner.refine(drafts, condition)
    value = planner.plan_value.value(torch.cat([drafts, refined])[:, 1:]).mean((1, 2))  # [2 N]

# %%
# Asked for more, the draft goes further. The refiner moves a draft, which is an average of
# futures, to where plans of the data are. Of all of them the value chooses one.

task, _ = checkpoint_task(CHECKPOINT)
maze = make_gym_env(task).unwrapped.maze
best = int(value.argmax())
figure, axes = plt.subplots(1, 2, figsize=(9, 4.4))
shown = {"drafts": drafts, "refined": refined}
for axis, (name, plans) in zip(axes, shown.items(), strict=True):
    draw_maze(axis, maze)
    axis.set(xlim=(-1.7, 1.7), ylim=(-1.7, 1.7))
    for score, plan in zip(scores, normalizer.denormalize(plans), strict=True):
        axis.plot(*plan[:, :2].T, "o-", ms=3, color=plt.cm.viridis(float(score) / 4))
    axis.plot(*present[4:6], "*", color="#d1345b", ms=14)
    axis.set_title(f"{name}, scores {scores.min():g} to {scores.max():g}")
chosen = normalizer.denormalize(torch.cat([drafts, refined])[best])
axes[best // len(scores)].plot(*chosen[:, :2].T, color="#d1345b", lw=1, label="chosen")
axes[best // len(scores)].legend()
figure.tight_layout()

# %%
# In code that is one call. It gives the draft for the first score, the plan that was chosen and
# its first action:

with torch.no_grad():
    draft, _, plan, action = planner.plan(
        state[None, None], torch.zeros(1, 1, 1), torch.ones(1, 1).bool()
    )
print(
    "refined" if best >= len(scores) else "a draft", "for score", scores[best % len(scores)].item()
)
print("action", [round(number, 2) for number in action[0].tolist()])
