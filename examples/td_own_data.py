"""From data of one's own to an actor that plays: CartPole, of which a clumsy controller has data.

    python examples/td_own_data.py
    python examples/td_own_data.py --episodes 200 training.steps=2000

The data is what a program of yours may have: a list of trajectories. The same call takes a Minari
id, a D4RL file, a replay buffer or what a collector gathered. It takes some minutes on a CPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium
import numpy as np
from tensordict import TensorDictBase

from torchrl_td import TDPlannerActor, load_actor, train
from torchrl_td.checkpoint import make_checkpoint_env
from torchrl_td.experiment.cli import main, print_results


def clumsy_episode(env: gymnasium.Env, seed: int) -> dict[str, np.ndarray]:
    """One episode of a controller that balances, but for a share of its pushes at random."""
    random = np.random.default_rng(seed)
    clumsiness = random.uniform(0.1, 0.9)
    (observation, _), done = env.reset(seed=seed), False
    rows: dict[str, list] = {"observations": [], "actions": [], "rewards": [], "terminals": []}
    while not done:
        _, _, angle, turning = observation
        push = int(angle + 0.5 * turning > 0)
        push = push if random.random() > clumsiness else int(random.integers(2))
        following, reward, terminated, truncated, _ = env.step(push)
        for name, value in zip(rows, (observation, push, reward, terminated), strict=True):
            rows[name].append(value)
        observation, done = following, terminated or truncated
    return {name: np.array(values) for name, values in rows.items()}


def own_data(folder: Path, episodes: int, settings: list[str]) -> TensorDictBase:
    """Collects, trains, and plays an episode with the actor; returns that episode."""
    env = gymnasium.make("CartPole-v1")  # 500 steps at most, paid 1 each
    data = [clumsy_episode(env, seed) for seed in range(episodes)]
    # What a task needs is suggested by the data; a list of actions 0 and 1 is one of choices.
    trained = train(data, "CartPole-v1", settings=settings, output_dir=folder)
    print_results(trained.results)
    # The actor is a TorchRL policy: in a process of your own it comes from the folder alone.
    actor, play = load_actor(folder), make_checkpoint_env(folder)
    if isinstance(actor, TDPlannerActor):  # its state stands in the environment's data
        play.append_transform(actor.make_tensordict_primer())
    return play.rollout(500, actor)


def program() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.formatter_class = argparse.RawDescriptionHelpFormatter
    words.add_argument("--output-dir", type=Path, default=Path("outputs/own-cartpole"))
    words.add_argument("--episodes", type=int, default=500, help="of the clumsy controller")
    words.add_argument("settings", nargs="*", help="as of td_offline.py: training.steps=2000")
    given = words.parse_intermixed_args()
    own_data(given.output_dir, given.episodes, given.settings)


if __name__ == "__main__":
    main(program)
