"""Detects tasks whose inputs reveal their labels."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from meta_lightning.console import notify
from meta_lightning.data.module import EpisodicDataModule
from meta_lightning.engine.trainer_parts import datamodule_of
from meta_lightning.types import Task

# An accuracy above chance by more than both margins is not due to chance.
_MARGIN_STANDARD_ERRORS, _MARGIN_ACCURACY = 5.0, 0.05


class LeakGuard(Callback):
    """Warns once if the accuracy before adaptation is better than chance.

    A class has a different label in every episode, so a net that has not seen the support set can't do better than
    chance, whatever it was trained on. A higher accuracy means that the inputs or the order of the queries reveal the
    labels.

    Example:
        >>> trainer = Trainer(callbacks=[LeakGuard()], logger=False)
        >>> any(isinstance(callback, LeakGuard) for callback in trainer.callbacks)
        True
    """

    def __init__(self) -> None:
        self._warned = False
        self._tasks = 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resets the number of tasks."""
        self._tasks = 0

    on_test_start = on_validation_start

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Task, *args: Any, **kwargs: Any
    ) -> None:
        """Counts the tasks of all processes."""
        self._tasks += len(batch.index) * trainer.world_size

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks ``val/accuracy_before``."""
        self._check(trainer, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks ``test/accuracy_before``."""
        self._check(trainer, "test")

    def _check(self, trainer: Trainer, stage: str) -> None:
        data: Any = datamodule_of(trainer)
        before = trainer.callback_metrics.get(f"{stage}/accuracy_before")
        if self._warned or before is None or trainer.sanity_checking or not isinstance(data, EpisodicDataModule):
            return
        if data.eval_shape.ways is None:
            return
        chance = 1 / data.eval_shape.ways
        # An upper bound: the queries of a task are treated as all correct or all wrong together.
        standard_error = (chance * (1 - chance) / max(self._tasks, 1)) ** 0.5
        if before > chance + max(_MARGIN_STANDARD_ERRORS * standard_error, _MARGIN_ACCURACY):
            self._warned = True
            notify(
                f"Warning: {stage}/accuracy_before is {before:.1%}, and chance is {chance:.1%}. Each task assigns "
                "its labels anew, so they can't be predicted before adaptation: check whether the inputs or the order "
                "of the queries reveal them"
            )
