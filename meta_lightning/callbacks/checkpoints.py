"""The two checkpoints of a run."""

from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


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

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the best first, so that ``last.ckpt`` knows of it."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save_last(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves where training ended, which need not be at a validation."""
        self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by Lightning's connectors
            trainer.save_checkpoint(Path(str(self.dirpath)) / "last.ckpt", weights_only=False)
