"""The two checkpoints of a run."""

import math
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from meta_lightning.errors import ConfigError
from meta_lightning.files import remove_parts, save_whole


class _WholeFiles(TorchCheckpointIO):
    """Lightning's own writes to the system's temporary folder, from where a move may be a copy, and be cut short.

    Only the first process saves, and the others wait for it: what went wrong is kept, for all of them to raise.
    """

    problem: str | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if "://" in str(path):  # not on this machine
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            save_whole(checkpoint, Path(path))
        except OSError as error:
            self.problem = (
                f"{path} can't be written ({error.strerror}); what was there before is as it was: make room, and go on "
                f"with --ckpt_path {Path(path).parent / 'last.ckpt'}, or start anew with another "
                "trainer.logger.save_dir"
            )


class Checkpoints(ModelCheckpoint):
    """``best.ckpt`` by a validation metric, and ``last.ckpt`` at every validation and at the end of training.

    Lightning's own ``save_last`` skips validations that bring no new best, and the end of a run that ``max_steps``
    bounds.

    Args:
        monitor: The validation metric.
        mode: Whether less (``min``) or more (``max``) of it is better; null for ``max`` where it is an accuracy.
    """

    def __init__(self, monitor: str = "val/loss", mode: Literal["min", "max"] | None = None) -> None:
        super().__init__(
            monitor=monitor,
            mode=mode or ("max" if "accuracy" in monitor else "min"),
            filename="best",
            save_top_k=1,
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Has checkpoints written whole or not at all, unless somebody brought a way of their own."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.is_global_zero:
            remove_parts(Path(str(self.dirpath)))
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = _WholeFiles()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the best score. Paths are this run's, since Lightning deletes what the former ones name.

        Raises:
            ValueError: If the score is no number.
        """
        score = state_dict["best_model_score"]
        if score is not None and math.isnan(number := float(score)):
            raise ValueError("best_model_score is NaN")
        if score is None or state_dict["dirpath"] != self.dirpath:
            return  # no validation yet, or resumed into another folder
        self.best_model_score = self.kth_value = torch.tensor(number, dtype=torch.float64)
        self.best_model_path = self.kth_best_model_path = f"{self.dirpath}/best.ckpt"
        self.best_k_models = {self.best_model_path: self.best_model_score}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the best first, so that ``last.ckpt`` knows of it."""
        super().on_validation_end(trainer, pl_module)
        _raise_together(trainer)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.save_now(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves where training ended, which need not be at a validation."""
        self.save_now(trainer)

    def save_now(self, trainer: Trainer) -> None:
        """Saves the run as it stands as ``last.ckpt``, whole or not at all."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by Lightning's connectors
            trainer.save_checkpoint(Path(str(self.dirpath)) / "last.ckpt", weights_only=False)
            _raise_together(trainer)


def _raise_together(trainer: Trainer) -> None:
    """Raises on every process what kept the first one from saving."""
    checkpoint_io = trainer.strategy.checkpoint_io
    problem = checkpoint_io.problem if isinstance(checkpoint_io, _WholeFiles) else None
    if problem := trainer.strategy.broadcast(problem):
        raise ConfigError(problem)
