"""Watches for evaluations whose results are not finite."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from meta_lightning.console import notify
from meta_lightning.errors import NotFiniteError, name_tasks
from meta_lightning.types import Metrics, Task


def not_finite(results: Metrics) -> list[int]:
    """The numbers of the tasks whose loss or metric after the last step is not finite, in order.

    Args:
        results: The results of `MetaModule.evaluate`.
    """
    index = results["index"]
    curves = [values for values in results.values() if values.is_floating_point() and values.dim() > 1]
    finite = torch.stack([values[:, -1].isfinite() for values in curves]).all(0)
    numbers: list[int] = index.cpu()[~finite.cpu()].tolist()
    return sorted(numbers)


class FiniteEvaluation(Callback):
    """Names the tasks of a validation or test whose results are not finite.

    In ``fit`` this is a warning, since training may recover. Otherwise the run ends with a `NotFiniteError`.
    """

    def __init__(self) -> None:
        self._results: list[Metrics] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets an earlier evaluation."""
        self._results = []

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Task, *args: Any, **kwargs: Any
    ) -> None:
        """Keeps the results of the batch, where the device has them, so that nothing waits for it."""
        if outputs is not None:  # a subclass may evaluate in its own way
            self._results.append({name: value.detach() for name, value in outputs.items()})

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the results of a validation."""
        self._look(trainer, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the results of a test."""
        self._look(trainer, "test")

    def _look(self, trainer: Trainer, stage: str) -> None:
        gathered: list[Any] = [[number for results in self._results for number in not_finite(results)]]
        self._results = []
        if trainer.world_size > 1:
            gathered *= trainer.world_size
            torch.distributed.all_gather_object(gathered, gathered[0])
        tasks = sorted(number for numbers in gathered for number in numbers)
        if tasks and trainer.state.fn != "fit":
            raise NotFiniteError(stage, tasks)
        if tasks:
            notify(
                f"Warning: {stage}/loss or its metric is not finite for {name_tasks(tasks)} at meta-step "
                f"{trainer.global_step}; this validation is not taken for the best"
            )
