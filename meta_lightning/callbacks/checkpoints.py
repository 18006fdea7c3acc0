"""The best and the last checkpoint of a run."""

import math
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.console import notify
from meta_lightning.engine.trainer_parts import callbacks_of, datamodule_of, is_dry_run
from meta_lightning.errors import ConfigError
from meta_lightning.files import remove_parts, save_whole
from meta_lightning.functional.task_kind import direction
from meta_lightning.runs.checkpoint import TrainingRecord


class _WholeFiles(TorchCheckpointIO):
    """Writes checkpoint files completely or not at all.

    Lightning's own class writes to the system's temporary folder first. If that folder is on another file system, the
    final move is a copy, which can be interrupted.

    Only the first process saves, and the others wait for it. An error is stored in `problem`, so that all processes
    can raise it.
    """

    problem: str | None = None

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if "://" in str(path):  # a remote file system
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        if self._folder in Path(path).parents and not self._folder.is_dir():
            self.problem = f"{self._folder} was deleted while its run was trained; start a new run"
            return
        try:
            save_whole(checkpoint, Path(path))
        except OSError as error:
            self.problem = (
                f"{path} can't be written ({error.strerror}); the checkpoint that was there before is unchanged: free "
                f"some space and resume with --ckpt_path {Path(path).parent / 'last.ckpt'}, or start a new run with "
                "another trainer.logger.save_dir"
            )


class Checkpoints(ModelCheckpoint):
    """Saves ``best.ckpt`` by a validation metric, and ``last.ckpt`` at every validation and at the end of training.

    Lightning's own ``save_last`` saves neither at a validation without a new best nor at the end of a run that
    ``max_steps`` limits.

    Args:
        monitor: The validation metric.
        mode: Whether a lower (``min``) or a higher (``max``) value is better; null for the metric's own direction,
            which is known for the loss, accuracy and MSE.

    Example:
        >>> checkpoints = Checkpoints(monitor="val/accuracy")
        >>> checkpoints.monitor, checkpoints.mode
        ('val/accuracy', 'max')
        >>> trainer = Trainer(callbacks=[checkpoints], logger=False)
    """

    def __init__(self, monitor: str = "val/loss", mode: Literal["min", "max"] | None = None) -> None:
        super().__init__(
            monitor=monitor,
            mode=mode or direction(monitor) or "min",
            filename="best",
            save_top_k=1,
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )
        self._knows_direction = mode is not None or direction(monitor) is not None
        self._trained: dict[str, Any] | None = None

    def check_direction(self) -> None:
        """Refuses a metric of the user's own without its direction: ``best.ckpt`` could be the worst.

        Raises:
            ConfigError: If the direction is neither given nor known.
        """
        if not self._knows_direction:
            raise ConfigError(
                f"checkpoint.mode is null, and whether less or more of {self.monitor} is better is not known; set "
                "checkpoint.mode to min or max"
            )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes checkpoint writes atomic, unless the trainer has a checkpoint plugin of its own."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.check_direction()
        if stage == "fit" and trainer.is_global_zero:
            remove_parts(Path(str(self.dirpath)))
            if not is_dry_run(trainer) and "://" not in str(self.dirpath):
                Path(str(self.dirpath)).mkdir(parents=True, exist_ok=True)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = _WholeFiles(Path(str(self.dirpath)))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Forgets the former best, here and in early stopping, if validations of this run can't be compared with it."""
        data = datamodule_of(trainer)
        if trainer.state.fn != "fit" or not isinstance(pl_module, MetaModule) or data is None:
            return
        states, name = checkpoint["callbacks"], type(self).__name__
        before = TrainingRecord(0, None, checkpoint.get("settings", {}), checkpoint.get("EpisodicDataModule", {}))
        changes = before.incomparable(pl_module.settings(), data.state_dict())
        if self.state_key not in states and any(key.startswith(f"{name}{{") for key in states):
            changes.append(f"checkpoint.monitor or checkpoint.mode is {self.monitor}, {self.mode} here, others before")
        if not changes:
            return
        for callback in callbacks_of(trainer):
            if isinstance(callback, ModelCheckpoint | EarlyStopping):
                states.pop(callback.state_key, None)
        notify(
            f"Note: {'; '.join(changes)}: validations can't be compared with the former ones, so the former best is "
            "forgotten, and the next validation replaces best.ckpt"
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best score, with the paths of this run: Lightning deletes the file at the stored path.

        Raises:
            ValueError: If the score is NaN.
        """
        score = state_dict["best_model_score"]
        if score is not None and math.isnan(number := float(score)):
            raise ValueError("best_model_score is NaN")
        if score is None or math.isinf(number) or state_dict["dirpath"] != self.dirpath:
            return  # there was no validation with a finite score yet, or the run is resumed in another folder
        self.best_model_score = self.kth_value = torch.tensor(number, dtype=torch.float64)
        self.best_model_path = self.kth_best_model_path = f"{self.dirpath}/best.ckpt"
        self.best_k_models = {self.best_model_path: self.best_model_score}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the weights that training ended with, in whose place `WeightAveraging` is about to put the average."""
        super().on_train_epoch_end(trainer, pl_module)
        callbacks = callbacks_of(trainer)
        if any(isinstance(callback, WeightAveraging) for callback in callbacks):
            self._trained = {name: value.clone() for name, value in pl_module.state_dict().items()}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Has a resume go on from the weights that training ended with, not from their average."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._trained is not None and "current_model_state" in checkpoint:
            checkpoint["current_model_state"] = self._trained

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets an earlier run."""
        super().on_train_start(trainer, pl_module)
        self._trained = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Saves once all processes know of a signal, after the other callbacks have done their work of this step."""
        super().on_train_batch_end(trainer, pl_module, *args, **kwargs)
        if getattr(pl_module, "stop_agreed", 0):
            self.save_now(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves ``best.ckpt`` first, so that ``last.ckpt`` holds the new best score. A score must be finite."""
        watched = (trainer.callback_metrics.get(name) for name in (str(self.monitor), "val/loss"))
        # Lightning would take NaN for infinity, which is better than no best at all.
        if all(value is None or torch.isfinite(value) for value in watched):
            super().on_validation_end(trainer, pl_module)
        _raise_together(trainer)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.save_now(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the final state, since training need not end at a validation."""
        self.save_now(trainer)

    def save_now(self, trainer: Trainer) -> None:
        """Saves the current state as ``last.ckpt``, completely or not at all."""
        if not is_dry_run(trainer):
            for logger in trainer.loggers:
                logger.save()  # rows that are still in memory would be lost if the process were killed
            trainer.save_checkpoint(Path(str(self.dirpath)) / "last.ckpt", weights_only=False)
            _raise_together(trainer)


def _raise_together(trainer: Trainer) -> None:
    """Raises the first process's error in saving on every process.

    Raises:
        ConfigError: If the checkpoint could not be written.
    """
    checkpoint_io = trainer.strategy.checkpoint_io
    problem = checkpoint_io.problem if isinstance(checkpoint_io, _WholeFiles) else None
    if problem := trainer.strategy.broadcast(problem):
        raise ConfigError(problem)
