"""The settings of a run beside its figures, in TensorBoard's HPARAMS tab."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.algorithms.outer import plain
from meta_lightning.data.module import EpisodicDataModule

# The tab shows five columns of each kind until it is told otherwise: of the settings those marked so.
_FIRST = ("data.seed", "model", "model.inner_lr", "model.inner_steps", "model.optimizer.lr")
_METRICS = ("accuracy", "mse", "loss")


class HyperParameters(Callback):
    """Writes the settings with the first validation, and the best value of what is monitored where training ends.

    The tab reads the last value of ``val/...`` and ``test/...`` by itself, so that they are named here and nothing is
    written twice. (Lightning's ``log_hyperparams`` would put a point on each of these curves, when the figures of the
    test are not known yet.) It heeds the list of columns of one run for all that it shows, so that each names those of
    classes and of functions. The best value is ``val/<metric>_best``.
    """

    def __init__(self) -> None:
        self._written = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets an earlier run."""
        self._written = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the settings, once it is known which figures there are."""
        if self._written or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        self._written = True
        settings = _settings(trainer, pl_module)
        columns = _columns(trainer)
        for logger in _loggers(trainer):
            # Two runs with the same settings are two rows.
            row = hparams.hparams_pb(settings, trial_id=f"{logger.name}/{Path(logger.log_dir).name}")
            for summary in (_experiment(settings, columns), row):
                logger.experiment.file_writer.add_summary(summary)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the best value."""
        if (best := _best(trainer)) and best[1] is not None:
            for logger in _loggers(trainer):
                logger.experiment.add_scalar(*best, trainer.global_step)


def _loggers(trainer: Trainer) -> list[TensorBoardLogger]:
    if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by Lightning's connectors
        return []
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _best(trainer: Trainer) -> tuple[str, Any] | None:
    """The name and the value of the best of what checkpoints are chosen by."""
    by = trainer.checkpoint_callback
    return (f"{by.monitor}_best", by.best_model_score) if isinstance(by, ModelCheckpoint) and by.monitor else None


def _columns(trainer: Trainer) -> list[str]:
    """The scalars that the tab shows, those that this run has first."""
    metrics = sorted(_METRICS, key=lambda name: f"val/{name}" not in trainer.callback_metrics)
    names = [name for metric in metrics for name in (f"test/{metric}", f"val/{metric}_best", f"val/{metric}")]
    best = _best(trainer)
    return names if best is None or best[0] in names else [best[0], *names]


def _experiment(settings: dict[str, Any], columns: list[str]) -> Any:
    """The summary that lists the columns of the tab."""
    summary = hparams.hparams_config_pb([*map(hparams.HParam, settings)], [*map(hparams.Metric, columns)])
    plugin_data = summary.value[0].metadata.plugin_data
    listed = HParamsPluginData.FromString(plugin_data.content)
    for setting in listed.experiment.hparam_infos:
        setting.differs = setting.name in _FIRST
    plugin_data.content = listed.SerializeToString()
    return summary


def _settings(trainer: Trainer, module: LightningModule) -> dict[str, bool | int | float | str]:
    """What a checkpoint remembers of algorithm and data, as the command line names it: no optimizer's nots."""
    assert isinstance(module, MetaModule)
    data = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning's connectors
    settings = {"model": type(module).__name__, "model.net": type(module.net).__name__}
    of_model = {f"model.{name}": value for name, value in module.settings().items()}
    settings |= {k: v for k, v in of_model.items() if v is not False or not k.startswith("model.optimizer.")}
    if isinstance(data, EpisodicDataModule):
        settings |= {f"data.{name}": value for name, value in plain(data.state_dict()).items()}
    return {name: str(value) if isinstance(value, list) else value for name, value in settings.items()}
