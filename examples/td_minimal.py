"""The whole of Trajectory Diffuser as one TorchRL loop: read this first.

    python examples/td_minimal.py              # Pendulum, a few minutes on two cores
    python examples/td_minimal.py --steps 100  # a glance

Recorded episodes become windows of a replay buffer. On each batch of them three losses train the
three networks: a transformer that drafts a plan, a diffusion model that refines it, and an inverse
dynamics that turns its first two states into an action. The actor then plays by planning anew at
every step for the return it is asked for, better than the mean of what it learned from.
`examples/td_offline.py` is the same with settings, checkpoints, logs and the paper's tasks.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor
from torchrl import torchrl_logger
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import GymEnv, StepCounter, TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import MLP
from torchrl.objectives import SoftUpdate

import torchrl_td as td
from torchrl_td.data import displacement_scale
from torchrl_td.envs import planning_transforms
from torchrl_td.networks import TemporalUNet, TrajectoryTransformer

HORIZON = 16  # H, states in a plan; the history before it is as long
EPISODE = 200  # steps
STATE, ACTION = 3, 1  # numbers in Pendulum's observation and action


def swing_up(observation: Tensor, noise: float) -> Tensor:
    """The policy that is learned from: pumps energy, balances at the top, and errs."""
    cos, sin, speed = observation.unbind(-1)
    pump = speed.sign() * (5 - speed**2 / 6 - 5 * cos)
    torque = torch.where(cos > 0.9, -10 * sin - 2 * speed, pump)
    torque = torch.where(torch.rand(()) < noise, 2 * torch.randn(()), torque)
    return torque.clamp(-2, 2).unsqueeze(-1)


def record_episodes(count: int) -> TensorDictBase:
    """Episodes, one after the other [N], the first the best."""
    env = TransformedEnv(GymEnv("Pendulum-v1"), StepCounter(EPISODE))  # truncates them
    env.set_seed(0)
    rollouts = []
    for number in range(count):
        policy = partial(swing_up, noise=number / count)
        rollouts.append(env.rollout(EPISODE, TensorDictModule(policy, ["observation"], ["action"])))
    return torch.cat(rollouts)


def make_planner(data: TensorDictBase) -> td.TrajectoryPlanner:
    """Generator, refiner and inverse dynamics, for normalised data [N].

    The state changes little in a step, so what they predict and refine is the change, in units of
    what is usual; the paper predicts the state itself, and so do they with nothing given.
    """
    scale = displacement_scale(data, HORIZON)  # [H, O], of a state's change after 0..H-1 steps
    change = data["next", "returns_to_go"] - data["returns_to_go"]
    generator = td.TrajectoryGenerator(
        TrajectoryTransformer(STATE, 2 * HORIZON - 2, width=64, layers=2),
        predict="change",
        change_scale=scale[1],
        returns_change_scale=change.square().mean().sqrt(),
    )
    refiner = td.DiffusionRefiner(
        TemporalUNet(STATE, channels=16, multipliers=(1, 2)),
        td.NoiseSchedule(denoising_steps=100),
        refine_steps=3,
        coordinates=td.PlanCoordinates(scale),
    )
    network = MLP(2 * STATE, ACTION, num_cells=[128, 128], activation_class=torch.nn.ReLU)
    inverse_dynamics = td.InverseDynamics(network, change_scale=scale[1])
    return td.TrajectoryPlanner(generator, refiner, inverse_dynamics, horizon=HORIZON)


def train(planner: td.TrajectoryPlanner, data: TensorDictBase, steps: int) -> None:
    """Trains the planner's parts on windows of normalised data [N]."""
    losses = {
        "generator": td.TrajectoryGeneratorLoss(planner.generator),
        "refiner": td.DiffusionRefinerLoss(planner.refiner, HORIZON, delay_refiner=True),
        "inverse_dynamics": td.InverseDynamicsLoss(planner.inverse_dynamics),
    }
    optimizers = [torch.optim.AdamW(loss.parameters(), lr=1e-3) for loss in losses.values()]
    average = SoftUpdate(losses["refiner"], eps=0.995)

    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(len(data)), sampler=td.WindowSampler(HORIZON), batch_size=32
    )
    buffer.extend(data)
    for step in range(1, steps + 1):
        window = buffer.sample()  # [B, 2H - 2]
        values = {name: loss(window)[f"loss_{name}"] for name, loss in losses.items()}
        sum(values.values()).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        average.step()
        if step % 100 == 0 or step == steps:
            shown = ", ".join(f"{name} {value.item():.4f}" for name, value in values.items())
            torchrl_logger.info(f"step {step}: {shown}")
    # The refiner plans with the average of its weights over the last steps.
    losses["refiner"].target_refiner_network_params.data.to_module(planner.refiner)


def play(actor: td.TDPlannerActor, target_return: float, episodes: int) -> float:
    """The mean return of episodes that the actor plays, asked for a return."""
    # Marks resets, adds rewards up, and counts down the return that is still asked for.
    env = TransformedEnv(GymEnv("Pendulum-v1"), planning_transforms(target_return))
    env.append_transform(actor.make_tensordict_primer())  # holds the planner's history and plan
    env.set_seed(1)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        rollouts = [env.rollout(EPISODE, actor) for _ in range(episodes)]
    return torch.stack([r["next", "episode_reward"][-1] for r in rollouts]).mean().item()


def count(text: str) -> int:
    """A whole number of 1 or more."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give 1 or more")
    return int(text)


def main(arguments: list[str] | None = None) -> float:
    """Records, trains and plays; gives the planner's mean return."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=count, default=2000, help="optimisation steps")
    parser.add_argument("--recorded", type=count, default=60, help="episodes learned from")
    parser.add_argument("--episodes", type=count, default=5, help="episodes played")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)

    recorded = record_episodes(options.recorded)
    episodes = td.load_episodes(recorded)  # [N], with returns-to-go
    normalizer = td.Normalizer.fit(episodes, returns_scale=500.0)
    data = normalizer.apply_to(episodes)
    planner = make_planner(data)
    train(planner, data, options.steps)
    actor = td.TDPlannerActor(planner, normalizer, action_spec=GymEnv("Pendulum-v1").action_spec)
    score = play(actor.eval(), target_return=-200.0, episodes=options.episodes)
    mean = recorded["next", "reward"].sum().item() / options.recorded
    torchrl_logger.info(f"mean return: planner {score:.0f}, data {mean:.0f}")
    return score


if __name__ == "__main__":
    main()
