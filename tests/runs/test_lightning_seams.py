"""The private names of Lightning's trainer and loggers that are touched: a test fails when one changes."""

from inspect import signature
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

QUIET = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}


@pytest.mark.parametrize("kind", [TensorBoardLogger, CSVLogger])
def test_a_logger_has_a_version_and_a_writer_that_it_makes_when_asked(kind: type) -> None:
    logger = kind("logs", name="a", version=None)
    assert (logger._version, logger._experiment) == (None, None)
    logger._version = "version_7"
    assert logger.experiment is logger._experiment is not None
    assert Path(logger.log_dir) == Path("logs/a/version_7")
    logger._version = str(Path("elsewhere").absolute())
    assert Path(logger.log_dir) == Path("elsewhere").absolute()


def test_a_tensorboard_logger_keeps_the_options_of_its_writer() -> None:
    assert TensorBoardLogger("logs", max_queue=3)._kwargs == {"max_queue": 3}


def test_the_connectors_of_a_trainer_log_and_restore() -> None:
    trainer = Trainer(**QUIET)
    assert [*signature(trainer._logger_connector.log_metrics).parameters] == ["metrics", "step"]
    restore = trainer._checkpoint_connector._restore_modules_and_callbacks
    assert [*signature(restore).parameters] == ["checkpoint_path", "weights_only"]
    assert trainer.fit_loop.epoch_loop._batches_that_stepped == 0
