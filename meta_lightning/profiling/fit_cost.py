"""The time that `fit` adds to a meta-step."""

import copy
import io
import itertools
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from statistics import median
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from meta_lightning.algorithms import MetaModule
from meta_lightning.callbacks import GracefulStop, MetaStepProgress
from meta_lightning.data import EpisodicDataModule
from meta_lightning.profiling.timing import wait_for

# The fewest and the most meta-steps of the timed run.
_MIN_STEPS, _MAX_STEPS = 3, 1000


class _Clock(Callback):
    """Records the end time of each meta-step, and ends training after ``seconds``.

    Lightning's ``max_time`` can't do this: with ``min_steps`` it waits for the end of the epoch, which never comes.
    """

    def __init__(self, seconds: float) -> None:
        self.ends: list[float] = []
        self._seconds = seconds

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())
        trainer.should_stop = len(self.ends) >= _MIN_STEPS and self.ends[-1] - self.ends[0] >= self._seconds


def around_meta_step(trainer: Trainer, module: MetaModule, data: EpisodicDataModule, seconds: float) -> float:
    """Measures the seconds that a meta-step of `fit` spends outside of `MetaModule.meta_step`.

    This includes drawing the tasks. It is measured in a separate run with a logger, a progress bar and the callback
    that handles signals.

    Args:
        trainer: Sets the device and the precision.
        module: The algorithm. It is trained, and it must be compiled beforehand if compilation is wanted.
        data: The episodes.
        seconds: The approximate duration of the run.

    Returns:
        The median over meta-steps, in seconds.
    """
    clock = _Clock(seconds)
    module.compile_in_fit = False
    meta_step = module.meta_step
    inside: list[float] = []

    def timed(*arguments: Any) -> Any:
        started = time.perf_counter()
        result = meta_step(*arguments)
        wait_for(module.device)
        inside.append(time.perf_counter() - started)
        return result

    module.configure_callbacks = list  # type: ignore[method-assign]  # the command has checked the run
    module.meta_step = timed  # type: ignore[method-assign, assignment]  # replaced on this instance only
    device = trainer.strategy.root_device
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        Trainer(
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=1 if device.index is None else [device.index],
            precision=trainer.precision,
            max_steps=_MAX_STEPS, max_epochs=-1, limit_val_batches=0,
            callbacks=[MetaStepProgress(), GracefulStop(), clock], logger=TensorBoardLogger(folder),
            enable_checkpointing=False, enable_model_summary=False,
        ).fit(module, datamodule=copy.copy(data))  # fmt: skip
    total = [after - before for before, after in itertools.pairwise(clock.ends)]
    return max(median(whole - part for whole, part in zip(total, inside[1:], strict=True)), 0.0)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the run off the screen: its progress bar, its warnings and Lightning's notes on the device."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)
