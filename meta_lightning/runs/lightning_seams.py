"""All private names of Lightning's trainer and its loggers that are used; `tests/runs` has a contract for each."""

import csv
import hashlib
import io
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

from lightning.fabric.loggers.logger import _DummyExperiment as DummyExperiment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from torch.utils.tensorboard import SummaryWriter

from meta_lightning.engine.training_record import meta_steps_of
from meta_lightning.files import one_at_a_time, write_whole

FolderLogger = TensorBoardLogger | CSVLogger


def folder_loggers(loggers: Iterable[Logger]) -> list[FolderLogger]:
    """The loggers that number their runs on this machine's disk."""
    found = [logger for logger in loggers if isinstance(logger, FolderLogger)]
    return [logger for logger in found if "://" not in str(logger.save_dir)]


def given_version(logger: FolderLogger) -> int | str | None:
    """The version that the settings name; None if the logger is to number its run, which it does when it is asked."""
    return logger._version


def set_version(logger: FolderLogger, version: int | str) -> None:
    """Has a logger write to a folder that was claimed for the run, or that the resumed run has."""
    logger._version = version


def keep_rows(logger: FolderLogger) -> None:
    """Has a `CSVLogger` append to the ``metrics.csv`` of its folder, which Lightning's own deletes."""
    if isinstance(logger, CSVLogger):
        logger._experiment = _AppendingWriter(logger.log_dir)


class Place(NamedTuple):
    """Where a logger writes.

    Attributes:
        logger: The logger.
        version: Its version; None if its run has no number yet.
        opened: Whether it has written.
    """

    logger: FolderLogger
    version: int | str | None
    opened: bool


def park(logger: FolderLogger) -> Place:
    """Keeps a logger from creating a folder, as Lightning has it do before it reads the checkpoint of an evaluation."""
    place = Place(logger, logger._version, logger._experiment is not None)
    if not place.opened:
        logger._experiment = DummyExperiment()  # type: ignore[assignment]  # takes every call
    return place


def unpark(place: Place) -> None:
    """Has a logger that was parked write where it would have."""
    if not place.opened:
        place.logger._experiment = None


def move(place: Place, folder: Path, *, write: bool) -> None:
    """Has a logger that was parked go on in the folder of a run, wherever that is.

    Args:
        place: The result of `park`.
        folder: The folder of the run.
        write: Whether this process writes.
    """
    logger = place.logger
    version = place.version if isinstance(place.version, str) else f"version_{place.version}"
    there = place.version is not None and Path(logger.root_dir, version).resolve() == folder.resolve()
    if there and place.opened:
        return
    unpark(place)
    _close(logger)
    if not there:
        beside = Path(logger.root_dir).resolve() == folder.parent.resolve()
        logger._version = folder.name if beside else str(folder.absolute())  # joined to the root, the path remains
    if write and isinstance(logger, TensorBoardLogger):  # which would create its root, even if its run lies elsewhere
        logger._experiment = SummaryWriter(log_dir=logger.log_dir, **logger._kwargs)
    elif write:
        keep_rows(logger)


def move_back(place: Place) -> None:
    """Has a logger write again where it did before `move`."""
    logger = place.logger
    if isinstance(logger._experiment, DummyExperiment):  # the evaluation failed early
        unpark(place)
    elif logger._version != place.version:
        _close(logger)
        logger._version = place.version
        if place.opened:
            keep_rows(logger)


def _close(logger: FolderLogger) -> None:
    if logger._experiment is not None:
        logger.finalize("success")
    logger._experiment = None


def log_at_meta_steps(trainer: Trainer, module: LightningModule) -> None:
    """Has loggers place all that is logged at the meta-steps that the weights have taken.

    Lightning counts from 0, starts again in every evaluation, may leave a step out on a resume, and logs its own count
    of epochs beside each value. A step that the user gives stays.
    """
    connector = cast(Any, trainer)._logger_connector
    connector.log_metrics = partial(_log_metrics, connector, module)


def _log_metrics(connector: Any, module: LightningModule, metrics: dict[str, Any], step: int | None = None) -> None:
    at = meta_steps_of(module) if step is None and "step" not in metrics else step
    type(connector).log_metrics(connector, metrics, step=at)


def before_restoring(trainer: Trainer, act: Callable[[Trainer, str | None], None]) -> None:
    """Has a function called in each run with the path of its checkpoint, or None, before the checkpoint is read."""
    connector = cast(Any, trainer)._checkpoint_connector
    connector._restore_modules_and_callbacks = partial(_restore, trainer, act)


def _restore(
    trainer: Trainer, act: Callable[[Trainer, str | None], None], path: str | Path | None = None, *options: Any
) -> None:
    act(trainer, str(path) if path else None)
    connector = cast(Any, trainer)._checkpoint_connector
    type(connector)._restore_modules_and_callbacks(connector, path, *options)


def count_as_uninterrupted(trainer: Trainer) -> None:
    """Has callbacks that log by Lightning's count, such as `LearningRateMonitor`, go on where a resumed run was."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


class _AppendingWriter(ExperimentWriter):
    """Appends rows. Another process may do so too: a test beside the training."""

    def _check_log_dir_exists(self) -> None:
        """Deletes nothing."""

    def log_hparams(self, params: dict[str, Any]) -> None:
        """Keeps the file as the run began."""
        if not Path(self.log_dir, self.NAME_HPARAMS_FILE).is_file():
            super().log_hparams(params)

    def save(self) -> None:
        """Appends the rows since the last save. New columns rewrite the file, whole or not at all."""
        if not self.metrics:
            return
        path = Path(self.metrics_file_path)
        with one_at_a_time(f"rows-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"):
            header = _header(path)
            known = sorted(header) == (columns := sorted({*header}.union(*self.metrics)))
            writer = csv.DictWriter(buffer := io.StringIO(newline=""), header if known else columns)
            if not known:
                writer.writeheader()
                if header:
                    with path.open(newline="") as file:
                        writer.writerows({key: row.get(key) for key in header} for row in csv.DictReader(file))
            writer.writerows(self.metrics)
            if known:
                _append(buffer.getvalue(), path)
            else:
                write_whole({path: buffer.getvalue()})
        self.metrics = []


def _header(path: Path) -> list[str]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return next(csv.reader(file), [])


def _append(text: str, path: Path) -> None:
    with path.open("rb+") as file:
        file.seek(-1, io.SEEK_END)
        torn = file.read() != b"\n"  # a process was killed while it wrote
        file.write((b"\r\n" if torn else b"") + text.encode())
