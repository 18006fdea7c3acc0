"""Watches for figures that are too good to be true."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from meta_lightning.data.module import EpisodicDataModule
from meta_lightning.runs import say

# Standard errors, and points, above chance that no honest initialisation reaches.
_ERRORS, _POINTS = 5.0, 0.05


class LeakGuard(Callback):
    """Warns, once, when tasks are solved before their support set was looked at.

    A class gets another label in every episode, so that before adaptation no net can do better than chance, whatever it
    was trained on. One that does has been told the labels: by the inputs, or by the order of the queries.
    """

    def __init__(self) -> None:
        self._warned = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at ``val/accuracy_before``."""
        self._look(trainer, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at ``test/accuracy_before``."""
        self._look(trainer, "test")

    def _look(self, trainer: Trainer, stage: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning's connectors
        before = trainer.callback_metrics.get(f"{stage}/accuracy_before")
        if self._warned or before is None or not isinstance(data, EpisodicDataModule) or data.eval_shape.ways is None:
            return
        chance = 1 / data.eval_shape.ways
        tasks = data.test_tasks if stage == "test" else data.val_tasks
        # At most: as if a task's queries were all right or all wrong together.
        error = (chance * (1 - chance) / tasks) ** 0.5
        if before > chance + max(_ERRORS * error, _POINTS):
            self._warned = True
            say(
                f"Warning: {stage}/accuracy_before is {before:.1%}, and chance is {chance:.1%}. Labels are dealt out "
                "anew in each task, so nobody can know them before adaptation: does the input, or the order of the "
                "queries, give them away?"
            )
