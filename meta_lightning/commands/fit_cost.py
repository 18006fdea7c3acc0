"""What `fit` adds to a meta-step."""

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
from meta_lightning.timing import wait_for

# Meta-steps of the run, at least and at most.
_FEWEST, _MOST = 3, 1000


class _Clock(Callback):
    """When each meta-step had ended; ends training after some seconds.

    Not by Lightning's ``max_time``, which with ``min_steps`` waits for the end of the epoch, and there is none.
    """

    def __init__(self, seconds: float) -> None:
        self.ends: list[float] = []
        self._seconds = seconds

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())
        trainer.should_stop = len(self.ends) >= _FEWEST and self.ends[-1] - self.ends[0] >= self._seconds


def around_meta_step(trainer: Trainer, module: MetaModule, data: EpisodicDataModule, seconds: float) -> float:
    """Median seconds that a meta-step of `fit` takes beside `MetaModule.meta_step`, its tasks' drawing included.

    Measured in a run of its own with a logger, a progress bar and the callback that takes signals.

    Args:
        trainer: Knows the device and the precision.
        module: The algorithm, compiled already if it is to be; it is trained.
        data: The episodes.
        seconds: About how long to go on.
    """
    clock = _Clock(seconds)
    module.compile_in_fit = False
    meta_step = module.meta_step
    inside: list[float] = []

    def timed(*arguments: Any) -> Any:
        started = time.perf_counter()
        found = meta_step(*arguments)
        wait_for(module.device)
        inside.append(time.perf_counter() - started)
        return found

    module.meta_step = timed  # type: ignore[method-assign, assignment]  # of this one
    device = trainer.strategy.root_device
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        Trainer(
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=1 if device.index is None else [device.index],
            precision=trainer.precision,
            max_steps=_MOST, max_epochs=-1, limit_val_batches=0,
            callbacks=[MetaStepProgress(), GracefulStop(), clock], logger=TensorBoardLogger(folder),
            enable_checkpointing=False, enable_model_summary=False,
        ).fit(module, datamodule=copy.copy(data))  # fmt: skip
    whole = [after - before for before, after in itertools.pairwise(clock.ends)]
    return max(median(step - spent for step, spent in zip(whole, inside[1:], strict=True)), 0.0)


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of the run on the screen: neither its bar nor what Lightning says of the device."""
    said = logging.getLogger("lightning.pytorch")
    level = said.level
    said.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        said.setLevel(level)
