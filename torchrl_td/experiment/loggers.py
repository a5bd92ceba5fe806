"""TorchRL's loggers as a run uses them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torchrl import torchrl_logger

from torchrl_td.advice import install
from torchrl_td.config import Config, to_dict
from torchrl_td.errors import InputError, first_line

_WANDB_SECONDS = 30  # to wait for the server before logging offline
_staging: list[str] = []  # folders of this process' runs, each of which keeps its own artifacts


def make_logger(config: Config, folder: Path, run_id: str, step: int = 0) -> Any | None:
    """TorchRL's logger of the kind asked for; ``None`` for CSV alone.

    W&B falls back to offline where it cannot log in; a run is never lost to its logger. What
    TensorBoard has of steps after ``step``, from which the run goes on, is hidden.

    Raises:
        InputError: if the logger's package is not installed.
    """
    kind = config.logger.kind
    if kind == "csv" or (kind == "wandb" and config.logger.mode == "disabled"):
        return None
    name = f"{config.task.name}-{config.preset}-seed{config.seed}".replace("/", "-")
    name = config.logger.name or name
    try:
        if kind == "tensorboard":
            from torchrl.record.loggers.tensorboard import TensorboardLogger

            logger = TensorboardLogger(exp_name=name, log_dir=str(folder / "tensorboard"))
            _hide_after(step, logger.experiment)
            settings = OmegaConf.to_yaml(OmegaConf.create(to_dict(config)))
            logger.experiment.add_text("settings", f"```yaml\n{settings}```", step)
            return logger
        return _wandb_logger(config, folder, name, run_id)
    except ImportError as error:
        raise InputError(
            f"logger={kind} needs a package that is not installed: "
            f"{install('wandb' if kind == 'wandb' else 'tensorboard')}"
        ) from error
    except Exception as error:  # a disk that is full, a file in the way, W&B's own of many kinds
        torchrl_logger.warning(
            f"logger={kind} cannot start ({first_line(error)}); going on with metrics.csv alone"
        )
        return None


def _hide_after(step: int, writer: Any) -> None:
    """What ``SummaryWriter(purge_step=step + 1)`` does, for a writer that TorchRL has made."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    start = Event(step=step + 1, session_log=SessionLog(status=SessionLog.START))
    writer._get_file_writer().add_event(start, step + 1)


def _wandb_logger(config: Config, folder: Path, name: str, run_id: str) -> Any:
    import wandb
    from torchrl.record.loggers.wandb import WandbLogger

    # Else copies of artifacts that are yet to be uploaded lie in the user's home.
    if os.environ.get("WANDB_DATA_DIR") in (None, *_staging):  # the user's own choice stands
        _staging.append(str((folder / "wandb").resolve()))
        os.environ["WANDB_DATA_DIR"] = _staging[-1]
    arguments: dict[str, Any] = {
        "exp_name": name,
        "save_dir": str(folder),
        **{key: getattr(config.logger, key) for key in ("project", "entity", "group", "tags")},
        "config": to_dict(config),
        "id": run_id,
        "log_env_packages": False,  # run.json has the versions, and no paths of the machine
        "settings": wandb.Settings(init_timeout=_WANDB_SECONDS, silent=True),
    }
    if config.logger.mode == "online":
        try:
            if wandb.Api().api_key is None:
                raise RuntimeError("no login; run 'wandb login'")
            return WandbLogger(offline=False, **arguments)
        except Exception as error:  # no network, no login: wandb raises errors of its own
            reason = first_line(error)
            torchrl_logger.warning(
                f"W&B could not start online ({reason}); logging offline: 'wandb sync' later"
            )
    # Said to W&B itself, too: what TorchRL sets in the environment it has read before.
    return WandbLogger(offline=True, mode="offline", **arguments)


def log_artifact(logger: Any, folder: Path) -> None:
    """Gives W&B the best checkpoint and the newest as versions of one artifact.

    Args:
        logger: of any kind.
        folder: of the run's checkpoints.
    """
    if not hasattr(logger.experiment, "log_artifact"):
        return
    import wandb

    for alias, prefix in (("best", "best"), ("last", "step")):
        found = sorted(folder.glob(f"{prefix}-*"))
        if not found:
            continue
        step = int(found[-1].name.rpartition("-")[2])
        name = f"checkpoint-{logger.experiment.id}"
        artifact = wandb.Artifact(name, type="model", metadata={"step": step})
        artifact.add_dir(str(found[-1]))
        logger.experiment.log_artifact(artifact, aliases=[alias, f"step-{step}"])
