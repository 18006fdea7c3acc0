"""The settings of a run beside its figures, in TensorBoard's HPARAMS tab."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.plugins.hparams import summary_v2 as hparams

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.algorithms.outer import plain
from meta_lightning.data.module import EpisodicDataModule


class HyperParameters(Callback):
    """Writes the settings with the first validation, and the best value of what is monitored where training ends.

    The tab reads the last value of ``val/...`` and ``test/...`` by itself, so that they are named here and nothing is
    written twice. (Lightning's ``log_hyperparams`` would put a point on each of these curves; the test's figures are
    not known when it is called; and TensorBoard heeds the first list of columns that a run names, and no later one.)
    The best value is ``val/<metric>_best``.
    """

    def __init__(self) -> None:
        self._written = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets an earlier run."""
        self._written = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the settings, once it is known which figures there are."""
        if self._written or trainer.state.fn != "fit" or trainer.sanity_checking or not trainer.is_global_zero:
            return
        self._written = True
        settings = _settings(trainer, pl_module)
        columns = [name for name in sorted(trainer.callback_metrics) if name.startswith("val/")]
        columns += [name.replace("val/", "test/", 1) for name in columns]
        if best := _best(trainer):
            columns.insert(0, best[0])
        config = hparams.hparams_config_pb([*map(hparams.HParam, settings)], [*map(hparams.Metric, columns)])
        for writer in _writers(trainer):
            for summary in (config, hparams.hparams_pb(settings)):
                writer.file_writer.add_summary(summary)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the best value."""
        if (best := _best(trainer)) and best[1] is not None:
            for writer in _writers(trainer):
                writer.add_scalar(*best, trainer.global_step)


def _writers(trainer: Trainer) -> list[Any]:
    if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by Lightning's connectors
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _best(trainer: Trainer) -> tuple[str, Any] | None:
    """The name and the value of the best of what checkpoints are chosen by."""
    by = trainer.checkpoint_callback
    return (f"{by.monitor}_best", by.best_model_score) if isinstance(by, ModelCheckpoint) and by.monitor else None


def _settings(trainer: Trainer, module: LightningModule) -> dict[str, bool | int | float | str]:
    """What a checkpoint remembers of algorithm and data, under the names that the command line has for it."""
    assert isinstance(module, MetaModule)
    data = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning's connectors
    settings = {"model": type(module).__name__, "model.net": type(module.net).__name__}
    settings |= {f"model.{name}": value for name, value in module.settings().items()}
    if isinstance(data, EpisodicDataModule):
        settings |= {f"data.{name}": value for name, value in plain(data.state_dict()).items()}
    return {name: str(value) if isinstance(value, list) else value for name, value in settings.items()}
