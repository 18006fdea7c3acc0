"""The speed of training.

Lightning's own callbacks do not measure it. `ThroughputMonitor` waits for the GPU after every batch, includes the
validations between batches, and needs the module's floating-point operations. `DeviceStatsMonitor` logs memory and
load, not time.
"""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT

from meta_lightning.engine.trainer_parts import log_interval
from meta_lightning.types import Task


class Throughput(Callback):
    """Logs ``train/tasks_per_second`` and ``train/ms_per_meta_step`` at the log interval.

    Both are averages of the wall time between two log points. The time includes data loading, but not validations and
    their checkpoints. The tasks are those of all processes. The first meta-step of a process is not measured, since it
    compiles and allocates memory. The callback does not wait for a GPU. The check that each meta-step is finite does;
    without that check, the time lacks the work that is still queued on the GPU.

    Example:
        >>> trainer = Trainer(callbacks=[Throughput()], log_every_n_steps=100, logger=False)
        >>> any(isinstance(callback, Throughput) for callback in trainer.callbacks)
        True
    """

    def __init__(self) -> None:
        self._started: float | None = None
        self._start_step = 0
        self._paused: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resets the state of an earlier run."""
        self._started = self._paused = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pauses the clock."""
        self._paused = time.perf_counter()

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Resumes the clock after a validation."""
        if self._paused is not None:
            if self._started is not None:
                self._started += time.perf_counter() - self._paused
            self._paused = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Task, batch_idx: int
    ) -> None:
        """Logs the averages since the last log point."""
        interval = log_interval(trainer)
        step = trainer.global_step
        if self._started is not None and step % max(interval, 1):
            return
        now = time.perf_counter()
        if self._started is not None:
            seconds = (now - self._started) / (step - self._start_step)
            tasks = len(batch.index) * trainer.world_size
            pl_module.log_dict({"train/tasks_per_second": tasks / seconds, "train/ms_per_meta_step": 1000 * seconds})
        self._started, self._start_step = now, step
