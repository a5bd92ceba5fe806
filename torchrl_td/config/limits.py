"""Allowed values of each setting, and the settings that each algorithm reads."""

from __future__ import annotations

from typing import get_args

from torchrl_td.inference import MODES
from torchrl_td.modules.generator import Predict
from torchrl_td.modules.noise_schedule import Schedule
from torchrl_td.modules.plan_parts import Combine
from torchrl_td.modules.refiner import Init, Sampler
from torchrl_td.modules.trajectory_planner import WarmStart
from torchrl_td.networks.recurrent import Cell

_CRITICS = ("hidden_dims", "discount", "tau", "normalize_rewards")
# What each algorithm reads of `algorithm` beside its name.
ALGORITHMS: dict[str, tuple[str, ...]] = {
    "trajectory_diffuser": (),
    "bc": ("hidden_dims",),
    "bc_best": ("hidden_dims",),
    "rcbc": ("hidden_dims",),
    "rcbc_modulated": ("hidden_dims",),
    "rcbc_ensemble": ("hidden_dims", "members"),
    "dt": ("context", "width", "layers", "heads", "dropout", "weight_decay"),
    "iql": (*_CRITICS, "expectile", "temperature"),
    "td3_bc": (*_CRITICS, "alpha", "policy_delay"),
    "decision_diffuser": (),
    "diffuser": ("hidden_dims", "value_scale"),
}
FROM_NOISE = ("decision_diffuser", "diffuser")
"""Those whose plans start from noise, with no generator."""
PLANNERS = ("trajectory_diffuser", *FROM_NOISE)
"""Those that make plans."""
# Sections and settings that only plans have a use for.
OF_PLANS = (
    "generator",
    "refiner",
    "inverse_dynamics",
    "critic",
    "value",
    "returns_limit",
    "planner",
    "task.stride",
    "task.strided_steps",
    "task.strided_horizon",
    "task.scored",
    "task.pays_any_goal",
    "task.refine_steps",
    "task.guidance_scale",
    "training.refiner_weight_decay",
    "training.ema_decay",
    "training.return_tilt",
    "training.compile",
    "training.cudagraph",
    "evaluation.compile",
    "evaluation.baseline",
)
OF_DRAFTS = (
    "generator",
    "critic",
    "value",
    "returns_limit",
    "task.stride",
    "task.strided_steps",
    "task.strided_horizon",
    "task.scored",
    "task.pays_any_goal",
    "planner.plan_scores",
    "planner.add_noise",
    "planner.candidates",
    "planner.warm_start",
    "planner.refresh_every",
    "planner.refresh_distance",
    "evaluation.baseline",
    "inverse_dynamics.returns_modulate",
    "inverse_dynamics.members",
)
CHOICES: dict[str, tuple[str, ...]] = {
    "algorithm.name": tuple(ALGORITHMS),
    "generator.kind": ("transformer", *get_args(Cell), "plan"),
    "generator.predict": get_args(Predict),
    "refiner.kind": ("unet", "mlp"),
    "refiner.schedule": get_args(Schedule),
    "refiner.coordinates": ("absolute", "displacement"),
    "inverse_dynamics.input": ("states", "change"),
    "value.combine": get_args(Combine),
    "planner.sampler": get_args(Sampler),
    "planner.init": get_args(Init),
    "planner.warm_start": get_args(WarmStart),
    "evaluation.compile": MODES,
    "logger.kind": ("csv", "wandb", "tensorboard"),
    "init_normalizer": ("keep", "fit"),
    "logger.mode": ("offline", "online", "disabled"),
}
_LARGEST_SEED = 2**63 - 1  # that PyTorch's generators take
LARGEST_SIZE = 65_536  # of a layer, in numbers: far above what trains, below what overflows
MOST_LAYERS = 64  # of a network whose widths are listed
_LARGEST_RETURN = 1e12  # in reward units: its square is a number that float32 holds
# Smallest and largest allowed value; None means no bound. A null setting is not checked.
RANGES: dict[str, tuple[float | None, float | None]] = {
    "seed": (0, _LARGEST_SEED),
    "task.horizon": (2, 4096),
    "task.stride": (1, 1024),
    "task.strided_horizon": (2, 4096),
    "task.max_episode_steps": (1, 1_000_000_000),
    "task.guidance_scale": (-100, 100),
    "task.target_return": (-_LARGEST_RETURN, _LARGEST_RETURN),
    "task.training_steps": (1, None),
    "task.strided_steps": (1, None),
    "dataset.validation_share": (0, 0.5),
    "algorithm.context": (2, 1024),
    "algorithm.width": (1, LARGEST_SIZE),
    "algorithm.layers": (1, 256),
    "algorithm.heads": (1, LARGEST_SIZE),
    "algorithm.dropout": (0, 1),
    "algorithm.weight_decay": (0, None),
    "algorithm.discount": (0, 1),
    "algorithm.tau": (0, 1),
    "algorithm.expectile": (0, 1),
    "algorithm.temperature": (0, None),
    "algorithm.alpha": (0, None),
    "algorithm.value_scale": (0, None),
    "algorithm.policy_delay": (1, None),
    "generator.width": (2, LARGEST_SIZE),
    "generator.layers": (1, 256),
    "generator.heads": (1, LARGEST_SIZE),
    "generator.feedforward": (1, LARGEST_SIZE),
    "refiner.channels": (8, LARGEST_SIZE),
    "refiner.kernel_size": (1, 255),
    "refiner.embedding_dim": (4, LARGEST_SIZE),
    "refiner.embedding_hidden_dim": (1, LARGEST_SIZE),
    "refiner.denoising_steps": (1, 100_000),
    "refiner.condition_dropout": (0, 1),
    "refiner.max_step": (1, None),
    "refiner.batch_size": (1, None),
    "inverse_dynamics.plan_states": (1, None),
    "value.discount": (0, 1),
    "algorithm.members": (1, 64),
    "generator.members": (1, 64),
    "inverse_dynamics.members": (1, 64),
    "value.members": (1, 64),
    "value.expectile": (0.5, 0.9999),
    "value.target_decay": (0, 0.999999),
    "value.played_goal_share": (0, 1),
    "returns_limit.expectile": (0.5, 0.9999),
    "planner.refine_steps": (0, None),
    "planner.evaluations": (1, None),
    "planner.guidance_scale": (-100, 100),
    "planner.temperature": (0, 100),
    "planner.candidates": (1, 65_536),
    "planner.replan_every": (1, None),
    "planner.refresh_every": (1, None),
    "planner.returns_floor_share": (0, 1),
    "training.steps": (1, None),
    "training.batch_size": (1, None),
    "training.decay_steps": (1, None),
    "training.final_learning_rate_share": (0, 1),
    "training.refiner_weight_decay": (0, None),
    "training.ema_decay": (0, None),
    "training.warmup_steps": (0, None),
    "training.return_tilt": (0, 100),
    "training.log_every": (1, None),
    "training.validate_every": (0, None),
    "training.evaluate_every": (0, None),
    "training.checkpoint_every": (1, None),
    "training.keep_checkpoints": (1, None),
    "training.stop_after": (1, None),
    "training.patience": (1, None),
    "training.explosion": (1, None),
    "training.threads": (1, 1024),
    "evaluation.episodes": (0, None),
    "evaluation.workers": (0, 1024),
    "evaluation.seed": (0, _LARGEST_SEED),
    "evaluation.target_return": (-_LARGEST_RETURN, _LARGEST_RETURN),
}
POSITIVE = (
    "task.returns_scale",
    "value.symlog_unit",
    "planner.clip_range",
    "task.learning_rate",
    "training.learning_rate",
    "training.gradient_clip",
)
OFF = {
    "training.gradient_clip": ", or null for no clipping",
    "value.symlog_unit": ", or null for the values themselves",
    "planner.clip_range": ", or null for none",
}
WIDTHS = (
    "algorithm.hidden_dims",
    "refiner.multipliers",
    "refiner.hidden_dims",
    "inverse_dynamics.hidden_dims",
    "critic.hidden_dims",
    "value.hidden_dims",
    "returns_limit.hidden_dims",
)
# Handed to the environment; other names of the same data.
FREE_FORM = ("task.env_kwargs.", "task.reset_options.", "dataset.sources.")
