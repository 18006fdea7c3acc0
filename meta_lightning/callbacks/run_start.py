"""The checks and callbacks of every run, whether the command line or Python starts it."""

from lightning.pytorch import Callback, LightningModule, Trainer

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.callbacks.leak_guard import LeakGuard
from meta_lightning.callbacks.run_logs import RunLogs
from meta_lightning.checks.preflight import check_objects, was_checked
from meta_lightning.data import EpisodicDataModule
from meta_lightning.engine.run_start import at_run_start
from meta_lightning.engine.trainer_parts import callbacks_of, datamodule_of


def check_and_guard(trainer: Trainer, module: LightningModule) -> list[Callback]:
    """Checks a run that Python starts, before anything is written. The command line has made the same checks.

    Args:
        trainer: The trainer, with its data.
        module: The algorithm.

    Returns:
        The callbacks that every run has besides those of its trainer.

    Raises:
        ConfigError: If the run can't work.
    """
    data, stage = datamodule_of(trainer), trainer.state.fn.value  # type: ignore[union-attr]  # a run has a function
    if isinstance(module, MetaModule) and isinstance(data, EpisodicDataModule) and not was_checked(trainer, stage):
        check_objects(stage, module, data, trainer)
    logs = next((callback for callback in callbacks_of(trainer) if isinstance(callback, RunLogs)), RunLogs())
    logs.begin(trainer, module)
    return [LeakGuard(), logs]


at_run_start(check_and_guard)
