from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from meta_lightning.algorithms import MAMLModule
from meta_lightning.callbacks import Throughput, throughput

from ..algorithms.problems import SINUSOIDS


def logged(monkeypatch: pytest.MonkeyPatch, log_every_n_steps: int) -> dict[str, list[tuple[int, float]]]:
    """The scalars of a run whose time passes as it is told to: in seconds."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def passes(hook: str, seconds: Callable[[Trainer], float]) -> Callback:
        def wait(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
            clock.now += seconds(trainer)

        callback = Callback()
        setattr(callback, hook, wait)
        return callback

    Trainer(
        max_steps=20, max_epochs=-1, check_val_every_n_epoch=None, val_check_interval=3, enable_checkpointing=False,
        logger=TensorBoardLogger(".", name="run", version=""), enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", default_root_dir=Path.cwd(), log_every_n_steps=log_every_n_steps,
        callbacks=[
            passes("on_train_batch_end", lambda trainer: 5.0 if trainer.global_step == 1 else 0.009),
            Throughput(),
            passes("on_train_batch_start", lambda trainer: 0.001),
            passes("on_validation_batch_end", lambda trainer: 60.0),
            passes("on_validation_end", lambda trainer: 7.0),  # a checkpoint
        ],
    ).fit(MAMLModule(SINUSOIDS.net()), datamodule=SINUSOIDS.data())  # fmt: skip
    events = EventAccumulator("run")
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_time_is_that_of_meta_steps_without_the_first_and_without_validations(monkeypatch: pytest.MonkeyPatch) -> None:
    scalars = logged(monkeypatch, log_every_n_steps=5)
    assert [step for step, _ in scalars["train/ms_per_meta_step"]] == [5, 10, 15, 20]
    assert [value for _, value in scalars["train/ms_per_meta_step"]] == pytest.approx([10.0] * 4)
    assert [value for _, value in scalars["train/tasks_per_second"]] == pytest.approx([400.0] * 4)


def test_nothing_is_logged_between(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("per" in tag for tag in logged(monkeypatch, log_every_n_steps=50))
