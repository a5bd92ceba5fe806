"""
The noise schedule
==================

How much of a plan is left at each denoising step.
"""

import matplotlib.pyplot as plt

from torchrl_td import NoiseSchedule

schedule = NoiseSchedule(100)
figure, axis = plt.subplots(figsize=(6, 3))
axis.plot(schedule.alpha_bar.sqrt())
