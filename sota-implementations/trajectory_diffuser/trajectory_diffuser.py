"""Trajectory Diffuser example.

This is a self-contained example of an offline Trajectory Diffuser training script
(Huang et al., https://arxiv.org/abs/2407.16142), with the paper's recipe: no checkpoints and no
presets, for which see ``examples/td_offline.py``.

The helper functions are coded in the utils.py associated with this script.
"""

from __future__ import annotations

import hydra
import torch
import tqdm
from omegaconf import DictConfig
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.objectives.common import LossModule
from torchrl.record.loggers import generate_exp_name, get_logger
from utils import (
    make_environment,
    make_losses,
    make_offline_replay_buffer,
    make_optimizer,
    make_planner,
)

from torchrl_td import TDPlannerActor


@hydra.main(version_base="1.1", config_path="", config_name="config")
def main(cfg: DictConfig) -> None:
    """Trains on a dataset and plays the environment now and then."""
    device = torch.device(cfg.optim.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.manual_seed(cfg.env.seed)

    logger = None
    if cfg.logger.backend:
        logger = get_logger(
            cfg.logger.backend,
            logger_name="trajectory_diffuser_logging",
            experiment_name=generate_exp_name("TrajectoryDiffuser", cfg.logger.exp_name),
            wandb_kwargs={
                "mode": cfg.logger.mode,
                "config": dict(cfg),
                "project": cfg.logger.project_name,
                "group": cfg.logger.group_name,
            },
        )

    buffer, normalizer = make_offline_replay_buffer(cfg)
    sample = buffer.sample()
    widths = sample["observation"].shape[-1], sample["action"].shape[-1]
    planner = make_planner(cfg, *widths, device)
    actor = TDPlannerActor(planner, normalizer.to(device))
    losses, average = make_losses(cfg, planner)
    optimizer = make_optimizer(cfg, losses)
    env = make_environment(cfg, actor)

    for step in tqdm.trange(1, cfg.optim.gradient_steps + 1):
        window = buffer.sample().to(device)
        values = {f"loss_{name}": loss(window)[f"loss_{name}"] for name, loss in losses.items()}
        sum(values.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        average.step()

        metrics = {}
        if step % cfg.logger.log_interval == 0:
            metrics.update({name: value.item() for name, value in values.items()})
        if step % cfg.logger.eval_iter == 0:
            metrics["eval/reward"] = evaluate(cfg, env, actor, losses["refiner"])
        if logger is not None:
            for name, value in metrics.items():
                logger.log_scalar(name, value, step)
    env.close()


def evaluate(cfg: DictConfig, env, actor: TDPlannerActor, refiner_loss: LossModule) -> float:
    """The mean return of a few episodes, planned with the average of the refiner's weights."""
    averaged = refiner_loss.target_refiner_network_params
    with (
        set_exploration_type(ExplorationType.DETERMINISTIC),
        averaged.to_module(actor.planner.refiner),
    ):
        rollouts = [
            env.rollout(cfg.env.max_episode_steps, actor) for _ in range(cfg.logger.eval_episodes)
        ]
    return sum(rollout["next", "episode_reward"][-1].item() for rollout in rollouts) / len(rollouts)


if __name__ == "__main__":
    main()
