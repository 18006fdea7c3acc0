"""Watches for figures that are too good to be true."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from meta_lightning.data.module import EpisodicDataModule
from meta_lightning.runs import say
from meta_lightning.types import Task

# Standard errors, and points, above chance that no honest initialisation reaches.
_ERRORS, _POINTS = 5.0, 0.05


class LeakGuard(Callback):
    """Warns, once, when tasks are solved before their support set was looked at.

    A class gets another label in every episode, so that before adaptation no net can do better than chance, whatever it
    was trained on. One that does has been told the labels: by the inputs, or by the order of the queries.
    """

    def __init__(self) -> None:
        self._warned = False
        self._tasks = 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts anew."""
        self._tasks = 0

    on_test_start = on_validation_start

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Task, *args: Any, **kwargs: Any
    ) -> None:
        """Counts the tasks, on all processes."""
        self._tasks += len(batch.index) * trainer.world_size

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at ``val/accuracy_before``."""
        self._look(trainer, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at ``test/accuracy_before``."""
        self._look(trainer, "test")

    def _look(self, trainer: Trainer, stage: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning's connectors
        before = trainer.callback_metrics.get(f"{stage}/accuracy_before")
        if self._warned or before is None or trainer.sanity_checking or not isinstance(data, EpisodicDataModule):
            return
        if data.eval_shape.ways is None:
            return
        chance = 1 / data.eval_shape.ways
        # At most: as if a task's queries were all right or all wrong together.
        error = (chance * (1 - chance) / max(self._tasks, 1)) ** 0.5
        if before > chance + max(_ERRORS * error, _POINTS):
            self._warned = True
            say(
                f"Warning: {stage}/accuracy_before is {before:.1%}, and chance is {chance:.1%}. Labels are dealt out "
                "anew in each task, so nobody can know them before adaptation: does the input, or the order of the "
                "queries, give them away?"
            )
