"""Progress in meta-steps."""

import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

# Seconds between two updates on the screen: Lightning's bar counts steps, of which a small net takes thousands.
_INTERVAL = 0.2


class MetaStepProgress(TQDMProgressBar):
    """One bar over all meta-steps, with the losses; a resumed run goes on where it stopped."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = 0.0

    @property
    def total_train_batches(self) -> int | float:
        """All meta-steps of the run, those before a resume too."""
        return self.trainer.max_steps if self.trainer.max_steps > 0 else float("inf")

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Starts the bar at the meta-step that training stands at."""
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.initial = self.train_progress_bar.n = trainer.global_step
        self.train_progress_bar.set_description("Meta-steps")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Shows the step and the losses a few times a second."""
        now = time.monotonic()
        if now - self._shown < _INTERVAL and trainer.global_step != self.total_train_batches:
            return
        self._shown = now
        self.train_progress_bar.n = trainer.global_step
        self.train_progress_bar.set_postfix(self.get_metrics(trainer, pl_module))

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What is logged for the bar; the version number says nothing about progress."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
