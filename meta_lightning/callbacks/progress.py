"""The progress of a run: lines that change on a terminal, and one line for each validation in a file."""

import math
import time
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from meta_lightning.callbacks.live_lines import LiveLines
from meta_lightning.console import notify
from meta_lightning.engine.trainer_parts import callbacks_of, log_interval
from meta_lightning.functional.task_kind import direction, metric_text
from meta_lightning.types import Task

# The least seconds between two updates, and the largest share of the time that they take: a small net takes thousands
# of meta-steps a second, and laying out text takes milliseconds.
_INTERVAL = 0.25
_SHARE = 0.005
_SMOOTHING = 0.2  # the weight of the newest measurement of the speed


class _Best(NamedTuple):
    """The best validation: the metric, its value, and its meta-step, unless that was in a run before a resume."""

    monitor: str
    value: float
    step: int | None

    def __str__(self) -> str:
        return f"best {self.monitor} {metric_text(self.monitor, self.value)}" + (
            "" if self.step is None else f" at {self.step}"
        )


class MetaStepProgress(ProgressBar):
    """Shows the meta-steps, the losses, the metric, the best so far, tasks per second and the time left.

    On a terminal these are lines that change a few times a second, below all other output. Otherwise, such as in a
    file, each validation of a training writes one line. A resumed run continues at its meta-step.

    Example:
        >>> trainer = Trainer(callbacks=[MetaStepProgress()], logger=False)
        >>> isinstance(trainer.progress_bar_callback, MetaStepProgress)
        True
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._shown: LiveLines | None = None
        self._next_draw = 0.0
        self._metrics: dict[str, float] = {}
        self._metrics_at = -1
        self._best: _Best | None = None
        self._began: tuple[float, int] | None = None  # the time and the meta-step from which the rest is estimated
        self._mark: tuple[float, int] | None = None  # the same, from which the speed is measured
        self._tasks_per_second = 0.0
        self._tasks = 0
        self._evaluation: tuple[str, float, int, float] | None = None  # title, beginning, batches done and in all

    @property
    def _lines(self) -> LiveLines:
        """The lines of this run, on the standard output that it has."""
        if self._shown is None:
            self._shown = LiveLines()
        return self._shown

    @property
    def total_train_batches(self) -> int | float:
        """All meta-steps of the run, including those before it was resumed."""
        return self.trainer.max_steps if self.trainer.max_steps > 0 else math.inf

    def enable(self) -> None:
        """Shows the progress again."""
        self._enabled = True

    def disable(self) -> None:
        """Shows nothing, as in all processes but the first."""
        self._enabled = False
        if self._shown is not None:
            self._shown.hide()
            self._shown.leave()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Prints above the lines."""
        print(*args, **kwargs)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets an earlier run."""
        super().setup(trainer, pl_module, stage)
        self._metrics, self._metrics_at, self._best, self._evaluation = {}, -1, None, None
        self._began = self._mark = None
        self._tasks_per_second = self._next_draw = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds the best validation of a run that is resumed."""
        callback = _judging(trainer)
        if callback is not None and callback.best_model_score is not None:
            self._best = _Best(str(callback.monitor), float(callback.best_model_score), None)
        self._evaluation = None
        self._draw()

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Starts the clock, or goes on after a validation."""
        if self._mark is None:
            self._mark = time.monotonic(), trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Updates the step, the losses and the speed a few times a second."""
        now = time.monotonic()
        if self._began is None:  # not at the start: the first meta-step may compile
            self._began = now, trainer.global_step
            self._tasks = len(batch.index) * trainer.world_size if isinstance(batch, Task) else 0
        if now < self._next_draw or not self._lines.is_possible:
            return
        self._measure_speed(trainer)
        self._draw()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts a second line."""
        if self._mark is not None:
            self._measure_speed(trainer)
            self._mark = None
        batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._begin_evaluation("First validation" if trainer.sanity_checking else "Validation", batches)

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Counts a batch."""
        self._count_batch()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the second line. In a file, writes the line of this validation."""
        self._evaluation = None
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self._judge(trainer)
        self._metrics_at = -1
        if self._enabled and not self._lines.is_possible:
            notify(f"Meta-step {self._steps_text()}: {', '.join(self._figures())}")
        self._draw()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the line of a test."""
        self._begin_evaluation("Test", trainer.num_test_batches)

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Counts a batch."""
        self._count_batch()

    def expect_measurements(self, per_batch: int) -> None:
        """Counts a batch of a test as so many, because it is measured in several ways."""
        if self._evaluation is not None:
            title, began, done, total = self._evaluation
            self._evaluation = title, began, done, total * per_batch

    def count_measurement(self) -> None:
        """Counts one measurement of a batch beside the one that Lightning knows of."""
        self._count_batch()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the line of a prediction."""
        self._begin_evaluation("Prediction", trainer.num_predict_batches)

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Counts a batch."""
        self._count_batch()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the last meta-step."""
        self._metrics_at = -1
        self._draw()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leaves the lines of a training, and removes those of an evaluation, whose results come next."""
        self._end(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leaves the lines of a training where it ended."""
        self._end(trainer)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The metrics that are shown, without the version number, which says nothing about progress."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

    def _end(self, trainer: Trainer) -> None:
        if trainer.state.fn == "fit":
            self._evaluation = None
            self._draw()
        else:
            self._lines.hide()
        self._lines.leave()
        self._shown = None

    def _begin_evaluation(self, title: str, batches: Any) -> None:
        total = sum(batches) if isinstance(batches, list) else batches
        self._evaluation = title, time.monotonic(), 0, total
        self._draw()

    def _count_batch(self) -> None:
        if self._evaluation is not None:
            title, began, done, total = self._evaluation
            self._evaluation = title, began, done + 1, total
        if time.monotonic() >= self._next_draw:
            self._draw()

    def _measure_speed(self, trainer: Trainer) -> None:
        now, step = time.monotonic(), trainer.global_step
        if self._mark is None or step == self._mark[1] or now == self._mark[0]:
            return
        newest = (step - self._mark[1]) * self._tasks / (now - self._mark[0])
        weight = _SMOOTHING if self._tasks_per_second and self._lines.is_possible else 1.0
        self._tasks_per_second += weight * (newest - self._tasks_per_second)
        self._mark = now, step

    def _judge(self, trainer: Trainer) -> None:
        """Compares this validation with the best one. `Checkpoints` do so too, but after the other callbacks."""
        callback = _judging(trainer)
        monitor = str(callback.monitor) if callback is not None else "val/loss"
        value = trainer.callback_metrics.get(monitor)
        if value is None or not torch.isfinite(value).all():
            return
        higher = (callback.mode if callback is not None else direction(monitor)) == "max"
        new, best = float(value), self._best
        if best is None or (new > best.value if higher else new < best.value):
            self._best = _Best(monitor, new, trainer.global_step)

    def _draw(self) -> None:
        began = time.monotonic()
        if self._enabled and self._lines.is_possible:
            self._lines.draw(self._content())
        now = time.monotonic()
        self._next_draw = now + max(_INTERVAL, (now - began) / _SHARE)

    def _content(self) -> RenderableType:
        grid = Table.grid(padding=(0, 1), expand=True)
        for column in range(4):
            grid.add_column(no_wrap=True, ratio=1 if column == 1 else None)
        rows: list[RenderableType] = [grid]
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            step, total = self.trainer.global_step, self.total_train_batches
            bar = Bar(total if math.isfinite(total) else None, step)
            grid.add_row("Meta-steps", bar, self._steps_text(), self._time_left())
            rows.append(Text("  ".join(self._figures(time=False))))
        if self._evaluation is not None:
            title, began, done, total = self._evaluation
            left = _time_text((time.monotonic() - began) / done * (total - done)) if done else ""
            bar = Bar(total if math.isfinite(total) else None, done)
            grid.add_row(title, bar, f"{done}/{total}", left)
        return Group(*rows)

    def _figures(self, *, time: bool = True) -> list[str]:
        step = self.trainer.global_step
        if self._metrics_at < 0 or step - self._metrics_at >= log_interval(self.trainer):
            # Reading a value waits for the device, so it is read as often as it is logged.
            metrics = self.get_metrics(self.trainer, self.trainer.lightning_module)
            self._metrics = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
            self._metrics_at = step - step % max(log_interval(self.trainer), 1)
        figures = [f"{name} {metric_text(name, value)}" for name, value in self._metrics.items()]
        if self._best is not None:
            figures.append(str(self._best))
        if self._tasks_per_second:
            rate = self._tasks_per_second
            figures.append(f"{rate:,.0f} tasks/s" if rate >= 10 else f"{rate:.2g} tasks/s")
        if time and (left := self._time_left()):
            figures.append(left)
        return figures

    def _steps_text(self) -> str:
        total = self.total_train_batches
        return f"{self.trainer.global_step}/{total}" if math.isfinite(total) else str(self.trainer.global_step)

    def _time_left(self) -> str:
        total, step = self.total_train_batches, self.trainer.global_step
        if self._began is None or step == self._began[1] or not math.isfinite(total) or step >= total:
            return ""
        return _time_text((time.monotonic() - self._began[0]) / (step - self._began[1]) * (total - step))


def _judging(trainer: Trainer) -> ModelCheckpoint | None:
    """The callback that keeps the best checkpoint."""
    checkpoints = [callback for callback in callbacks_of(trainer) if isinstance(callback, ModelCheckpoint)]
    return next((callback for callback in checkpoints if callback.monitor), None)


def _time_text(seconds: float) -> str:
    return f"{timedelta(seconds=round(seconds))} left"
