"""The checks and callbacks of every run, whether the command line or Python starts it."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelSummary, RichModelSummary, RichProgressBar, Timer

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.callbacks.calm import hide_lines, hide_warnings
from meta_lightning.callbacks.leak_guard import LeakGuard
from meta_lightning.callbacks.net_summary import NetSummary
from meta_lightning.callbacks.progress import MetaStepProgress
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
    replace_defaults(trainer)
    return [LeakGuard(), logs]


def replace_defaults(trainer: Trainer) -> None:
    """Puts the framework's progress and summary in the place of those that Lightning adds by itself.

    Lightning's bar counts epochs, and writes as much to a file as to a terminal. Those that a user configures stay.

    Example:
        >>> trainer = Trainer(logger=False, enable_checkpointing=False)
        >>> replace_defaults(trainer)
        >>> [type(callback).__name__ for callback in trainer.callbacks]
        ['MetaStepProgress', 'NetSummary']
    """
    callbacks = callbacks_of(trainer)
    for number, callback in enumerate(callbacks):
        if type(callback) is RichModelSummary and vars(callback) == vars(RichModelSummary()):
            callbacks[number] = NetSummary()
    # Lightning adds its own bar after the callbacks that are given.
    others = [callback for callback in callbacks if not isinstance(callback, Checkpoint | ModelSummary | Timer)]
    bar = others[-1] if others else None
    if type(bar) is RichProgressBar and vars(bar) == vars(RichProgressBar()):
        callbacks[callbacks.index(bar)] = MetaStepProgress()


at_run_start(check_and_guard)
hide_lines()  # when the package is imported: a trainer prints the first of them when it is constructed
hide_warnings()
