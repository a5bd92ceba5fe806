"""
A plan, and its stride
======================

A plan is a row of future states, the present first. Preset ``paper`` plans every step; preset
``strided`` plans a few states some steps apart, so that a short row reaches far.
"""

# %%
# The trained planner that comes with the package, as a policy, and the environment it was trained
# for:

import matplotlib.pyplot as plt
from torchrl.envs.utils import ExplorationType, set_exploration_type

from torchrl_td import TDPlannerActor, make_checkpoint_env
from torchrl_td.checkpoint import checkpoint_task
from torchrl_td.demo import CHECKPOINT
from torchrl_td.envs import make_gym_env
from torchrl_td.experiment.plotting import draw_maze

actor = TDPlannerActor.from_checkpoint(CHECKPOINT)
env = make_checkpoint_env(CHECKPOINT, seed=7)
env = env.append_transform(actor.make_tensordict_primer())
with set_exploration_type(ExplorationType.DETERMINISTIC):
    rollout = env.rollout(150, actor)

# %%
# At every step there is a plan. The states of this one lie eight steps apart; in thin blue is what
# the robot then did.

task, _ = checkpoint_task(CHECKPOINT)
maze = make_gym_env(task).unwrapped.maze
figure, axes = plt.subplots(1, 3, figsize=(10, 3.6))
for axis, step in zip(axes, (0, 30, 60), strict=True):
    draw_maze(axis, maze)
    axis.set(xlim=(-1.7, 1.7), ylim=(-1.7, 1.7))
    plan, walk = rollout["plan", "refined"][step], rollout["observation"]
    axis.plot(*walk[step : step + task.stride * len(plan), :2].T, color="#2b6cb0", lw=1)
    axis.plot(*plan[:, :2].T, "o--", color="#e08a1e", ms=5, label="plan")
    axis.plot(*walk[0, 4:6], "*", color="#d1345b", ms=14, label="goal")
    axis.set_title(f"step {step}")
axes[0].legend()
figure.tight_layout()

# %%
# The plan spans ``(horizon - 1) * stride`` steps; only its first action is taken, then a new plan
# is made from where the robot came out. What the plan holds is a state in the environment's own
# units:

print("stride", task.stride, "- a plan of", list(rollout["plan", "refined"].shape[1:]))
print("the first action:", [round(number, 2) for number in rollout["action"][0].tolist()])
