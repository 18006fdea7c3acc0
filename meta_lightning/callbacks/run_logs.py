"""Where the loggers of a run write, at which steps, and which curves share a chart."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from meta_lightning.callbacks.optional import OptionalWork
from meta_lightning.errors import ConfigError
from meta_lightning.files import check_writable
from meta_lightning.runs.folders import run_folder
from meta_lightning.runs.lightning_seams import (
    Place,
    before_restoring,
    count_as_uninterrupted,
    folder_loggers,
    log_at_meta_steps,
    move,
    move_back,
    park,
    unpark,
)

_CATEGORY = "training and validation"


class RunLogs(Callback):
    """Keeps all that is known of a run in one place, at one count of steps.

    Loggers count the meta-steps that the weights have taken, in training and in evaluation alike. An evaluation of a
    checkpoint logs to the run that the checkpoint is from: a `TensorBoardLogger` or `CSVLogger` goes on in that folder
    and returns to its own at the next run of the trainer. TensorBoard's Custom Scalars tab shows training and
    validation of each metric in one chart. Every run has this callback, whether the command line or Python starts it.

    Example:
        >>> trainer = Trainer(callbacks=[RunLogs()], logger=TensorBoardLogger("logs"))
        >>> any(isinstance(callback, RunLogs) for callback in trainer.callbacks)
        True
    """

    def __init__(self) -> None:
        self._former: list[Place] = []
        self._charted = False
        self._charts = OptionalWork("charts of training and validation", "TensorBoard's other tabs have all curves")

    def begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepares the loggers of a run. Lightning has them create their folders before it calls the first hook."""
        while self._former:
            move_back(self._former.pop())
        log_at_meta_steps(trainer, pl_module)
        if trainer.state.fn != "fit":
            self._former = [park(logger) for logger in folder_loggers(trainer.loggers)]
        before_restoring(trainer, self._settle)

    def _settle(self, trainer: Trainer, path: str | None) -> None:
        """Moves the loggers of an evaluation to the checkpoint's run, unless nothing can be written there."""
        folder = run_folder(Path(path)) if path and "://" not in path else None
        if folder is not None and self._former:
            try:
                check_writable([folder / "metrics.csv"])
            except ConfigError:
                folder = None
        for place in self._former:
            if folder is None:
                unpark(place)
            else:
                move(place, folder, write=trainer.is_global_zero)
        if folder is None:
            self._former = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resets the state of an earlier run."""
        self._charted = False

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Sets Lightning's own counter; every batch is one meta-step."""
        count_as_uninterrupted(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the layout of the charts once, when the names of the metrics are known."""
        if self._charted or trainer.state.fn != "fit" or trainer.sanity_checking or not trainer.is_global_zero:
            return
        self._charted = True
        with self._charts.attempt():
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_custom_scalars(chart_layout(trainer.callback_metrics))


def chart_layout(names: Iterable[str]) -> dict[str, dict[str, list[Any]]]:
    """The layout of TensorBoard's Custom Scalars tab: a chart for each metric of validation.

    Args:
        names: The names of the metrics that were logged.

    Returns:
        Expressions that match the tags of each chart, by the titles of its category and its own.

    Example:
        >>> chart_layout(["val/loss", "lr"])
        {'training and validation': {'loss': ['Multiline', ['train/loss$', 'val/loss$']]}}
    """
    metrics = sorted(name.removeprefix("val/") for name in names if name.startswith("val/"))
    tags = {metric: [f"{stage}/{re.escape(metric)}$" for stage in ("train", "val")] for metric in metrics}
    return {_CATEGORY: {metric: ["Multiline", both] for metric, both in tags.items()}}
