"""The settings of a run beside its metrics, in TensorBoard's HPARAMS tab."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.callbacks.checkpoints import Checkpoints
from meta_lightning.callbacks.optional import OptionalWork
from meta_lightning.data.module import EpisodicDataModule
from meta_lightning.engine.recipes import serializable
from meta_lightning.engine.trainer_parts import datamodule_of, is_dry_run
from meta_lightning.engine.training_record import meta_steps_of
from meta_lightning.functional.task_kind import KINDS

# By default the tab shows five of the settings: those that are marked with `differs`.
_MARKED_SETTINGS = ("data.seed", "model", "model.inner_lr", "model.inner_steps", "model.optimizer.lr")
_METRICS = (*(kind.metric for kind in KINDS), "loss")


class HyperParameters(Callback):
    """Logs the settings at the first validation, and the best value of the monitored metric at the end of training.

    The tab reads the last values of ``val/...`` and ``test/...`` from their own curves, so only their names are written
    here. (Lightning's ``log_hyperparams`` would add a point to each of these curves before any test has run.) The tab
    uses the columns of one run for all runs, so every run lists the metrics of classification and of regression. The
    best value is logged as ``val/<metric>_best``.

    Example:
        >>> trainer = Trainer(callbacks=[HyperParameters()], logger=TensorBoardLogger("logs"))
        >>> any(isinstance(callback, HyperParameters) for callback in trainer.callbacks)
        True
    """

    def __init__(self) -> None:
        self._written = False
        self._entries = OptionalWork("entries of TensorBoard's HPARAMS tab", "the other tabs have all figures")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resets the state of an earlier run."""
        self._written = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the settings at the first validation, when the names of the metrics are known."""
        if self._written or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        self._written = True
        with self._entries.attempt():
            settings = _settings(trainer, pl_module)
            columns = _columns(trainer)
            for logger in _loggers(trainer):
                # The trial ID keeps two runs with the same settings in two rows.
                row = hparams.hparams_pb(settings, trial_id=f"{logger.name}/{Path(logger.log_dir).name}")
                for summary in (_experiment(settings, columns), row):
                    logger.experiment.file_writer.add_summary(summary)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the best value of the monitored metric."""
        if (best := _best(trainer)) and best[1] is not None:
            for logger in _loggers(trainer):
                logger.experiment.add_scalar(*best, meta_steps_of(pl_module))


def _loggers(trainer: Trainer) -> list[TensorBoardLogger]:
    if not trainer.is_global_zero or is_dry_run(trainer):
        return []
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _best(trainer: Trainer) -> tuple[str, Any] | None:
    """The name and the best value of the metric that checkpoints are selected by; None without such a metric."""
    monitored = [
        callback
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint) and callback.monitor
    ]
    ours = (callback for callback in monitored if isinstance(callback, Checkpoints))
    callback = next(ours, next(iter(monitored), None))
    return None if callback is None else (f"{callback.monitor}_best", callback.best_model_score)


def _columns(trainer: Trainer) -> list[str]:
    """The names of the scalars in the tab, starting with those that this run logs."""
    metrics = sorted(_METRICS, key=lambda name: f"val/{name}" not in trainer.callback_metrics)
    names = [name for metric in metrics for name in (f"test/{metric}", f"val/{metric}_best", f"val/{metric}")]
    best = _best(trainer)
    return names if best is None or best[0] in names else [best[0], *names]


def _experiment(settings: dict[str, Any], columns: list[str]) -> Any:
    """The summary that lists the columns of the tab."""
    summary = hparams.hparams_config_pb([*map(hparams.HParam, settings)], [*map(hparams.Metric, columns)])
    plugin_data = summary.value[0].metadata.plugin_data
    plugin = HParamsPluginData.FromString(plugin_data.content)
    for setting in plugin.experiment.hparam_infos:
        setting.differs = setting.name in _MARKED_SETTINGS
    plugin_data.content = plugin.SerializeToString()
    return summary


def _settings(trainer: Trainer, module: LightningModule) -> dict[str, bool | int | float | str]:
    """The settings of the algorithm and the data by key, without optimizer flags that are false."""
    assert isinstance(module, MetaModule)
    data = datamodule_of(trainer)
    settings = {"model": type(module).__name__, "model.net": type(module.net).__name__}
    model_settings = {f"model.{name}": value for name, value in module.settings().items()}
    settings |= {
        key: value
        for key, value in model_settings.items()
        if value is not False or not key.startswith("model.optimizer.")
    }
    if isinstance(data, EpisodicDataModule):
        settings |= {f"data.{name}": value for name, value in serializable(data.state_dict()).items()}
    return {name: str(value) if isinstance(value, list) else value for name, value in settings.items()}
