"""
The noise schedule
==================

How much of a plan is left, and how much is noise, at each denoising step.
"""

import matplotlib.pyplot as plt

from torchrl_td import NoiseSchedule

schedules = {"linear (the paper's)": NoiseSchedule(100), "cosine": NoiseSchedule(100, "cosine")}
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
for name, schedule in schedules.items():
    axes[0].plot(schedule.signal_scale, label=name)
    axes[1].plot(schedule.noise_scale[:11], marker=".", label=name)
axes[0].set(title="share of the plan that is left", xlabel="denoising step k", ylim=(0, 1.02))
axes[1].set(title="noise where a refiner works", xlabel="denoising step k")
axes[0].legend(frameon=False)
figure.tight_layout()

# %%
# The paper's schedule does not end at noise: at k = 100 more than half of the plan is left. For a
# refiner that is no fault, it never starts there. A sampler that starts from noise
# (``planner.init=noise``) is refused with it.

for name, schedule in schedules.items():
    left = f"{schedule.signal_left(5):.3f} at k = 5, {schedule.signal_left(100):.3f} at k = 100"
    print(f"{name}: {left}")
