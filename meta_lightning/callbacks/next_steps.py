"""What `fit` prints at its end: how training ended, the best validation, and commands to paste."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.loggers import TensorBoardLogger

from meta_lightning.callbacks.checkpoints import Checkpoints
from meta_lightning.engine.trainer_parts import callbacks_of
from meta_lightning.functional.task_kind import metric_text
from meta_lightning.runs.changes import command_line
from meta_lightning.runs.checkpoint import Checkpoint


def next_steps(trainer: Trainer, folder: Path, checkpoints: Path) -> str:
    """The lines about a run that was trained; empty if it holds no checkpoint.

    Args:
        trainer: The trainer, at its end.
        folder: The folder of its run.
        checkpoints: The folder of its checkpoints.
    """
    saved = [path for name in ("best", "last") if (path := checkpoints / f"{name}.ckpt").is_file()]
    if not saved:
        return ""
    lines = [*_early_end(trainer), *_best(trainer, saved[0]), f"Run: {folder}"]
    lines.append(f"Test it: python -m meta_lightning test {command_line(folder, saved[0], changed=False)}")
    curves = [logger.log_dir for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    lines += [f"See its curves: {shlex.join(['tensorboard', '--logdir', path])}" for path in curves]
    return "\n" + "\n".join(lines)


def _early_end(trainer: Trainer) -> Iterator[str]:
    step, most = trainer.global_step, trainer.max_steps
    if not 0 <= step < most:
        return
    reason = "; trainer.max_time is over" if any(isinstance(part, Timer) for part in callbacks_of(trainer)) else ""
    for callback in callbacks_of(trainer):
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            reason = f"; EarlyStopping: {callback.stopping_reason_message.strip()}"
    yield f"Training ended after meta-step {step} of {most}{reason}"


def _best(trainer: Trainer, path: Path) -> Iterator[str]:
    callback = next((callback for callback in callbacks_of(trainer) if isinstance(callback, Checkpoints)), None)
    if callback is None or callback.best_model_score is None or path.name != "best.ckpt":
        return
    monitor = str(callback.monitor)
    step = Checkpoint.read(path).record.meta_steps
    yield f"Best validation: {monitor} {metric_text(monitor, float(callback.best_model_score))} at meta-step {step}"
