"""A progress bar that counts meta-steps."""

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

# Seconds between two updates. Lightning's bar updates by a number of steps, and a small net takes thousands a second.
_INTERVAL = 0.2


class MetaStepProgress(TQDMProgressBar):
    """Shows one bar over all meta-steps with the losses; a resumed run continues at its meta-step.

    Example:
        >>> trainer = Trainer(callbacks=[MetaStepProgress()], logger=False)
        >>> isinstance(trainer.progress_bar_callback, MetaStepProgress)
        True
    """

    def __init__(self) -> None:
        super().__init__()
        self._last_update = 0.0

    @property
    def total_train_batches(self) -> int | float:
        """All meta-steps of the run, including those before it was resumed."""
        return self.trainer.max_steps if self.trainer.max_steps > 0 else float("inf")

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Starts the bar at the current meta-step."""
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.initial = self.train_progress_bar.n = trainer.global_step
        self.train_progress_bar.set_description("Meta-steps")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Updates the step and the losses a few times a second."""
        now = time.monotonic()
        if now - self._last_update < _INTERVAL and trainer.global_step != self.total_train_batches:
            return
        self._last_update = now
        self.train_progress_bar.n = trainer.global_step
        self.train_progress_bar.set_postfix(self.get_metrics(trainer, pl_module))

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The metrics of the bar, without the version number, which says nothing about progress."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
