"""How fast training goes.

Lightning's own callbacks do not serve. `ThroughputMonitor` waits for the GPU after every batch, takes a running window
over batches whatever lies between them, and asks the module for its floating-point operations; `DeviceStatsMonitor`
tells of memory and load, not of time.
"""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT

from meta_lightning.types import Task


class Throughput(Callback):
    """Logs ``train/tasks_per_second`` and ``train/ms_per_meta_step`` at the log interval.

    Wall time between two log points, with the loading of data and without validations and their checkpoints. Tasks are
    those of all processes. The first meta-step of a process is left out: it compiles and allocates. Nothing waits for a
    GPU here; the check that each meta-step is finite does, and without it the clock lags by what is still under way.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._steps = 0
        self._paused: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets an earlier run."""
        self._since = self._paused = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock."""
        self._paused = time.perf_counter()

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Lets the clock go on after a validation."""
        if self._paused is not None:
            if self._since is not None:
                self._since += time.perf_counter() - self._paused
            self._paused = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Task, batch_idx: int
    ) -> None:
        """Logs what was done since the last log point."""
        interval = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by Lightning's connectors
        step = trainer.global_step
        if self._since is not None and step % max(interval, 1):
            return
        now = time.perf_counter()
        if self._since is not None:
            seconds = (now - self._since) / (step - self._steps)
            tasks = len(batch.index) * trainer.world_size
            pl_module.log_dict({"train/tasks_per_second": tasks / seconds, "train/ms_per_meta_step": 1000 * seconds})
        self._since, self._steps = now, step
