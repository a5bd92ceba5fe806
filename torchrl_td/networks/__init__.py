"""Plain networks on plain tensors; they know neither tensordicts nor noise schedules."""

from torchrl_td.networks.modulated_mlp import ModulatedMLP
from torchrl_td.networks.plan_denoiser import PlanDenoiser
from torchrl_td.networks.recurrent import RecurrentTrajectoryModel
from torchrl_td.networks.temporal_unet import TemporalUNet
from torchrl_td.networks.transformer import TrajectoryTransformer

__all__ = [
    "ModulatedMLP",
    "PlanDenoiser",
    "RecurrentTrajectoryModel",
    "TemporalUNet",
    "TrajectoryTransformer",
]
