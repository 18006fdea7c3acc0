"""Checks of the callbacks that a user adds: what can't work with meta-steps, and metrics that do not exist."""

import copy
from collections.abc import Iterator

import torch
from lightning.pytorch import Callback, Trainer, callbacks
from lightning.pytorch.accelerators import CPUAccelerator
from lightning_utilities.core.imports import RequirementCache

from meta_lightning.algorithms import MetaModule
from meta_lightning.engine.trainer_parts import callbacks_of, log_interval
from meta_lightning.errors import ConfigError
from meta_lightning.types import Task

_EPOCHS = "it counts epochs, and training counts meta-steps: "
# Lightning's callbacks that can't work here, with the reason and the remedy; classes derived from them can't either.
_REFUSED: dict[type[Callback], str] = {
    callbacks.StochasticWeightAveraging: _EPOCHS + "use WeightAveraging or EMAWeightAveraging",
    callbacks.ModelPruning: _EPOCHS + "it would prune after the last meta-step, and nothing would train what is left",
    callbacks.BaseFinetuning: _EPOCHS + "it would never unfreeze a layer; set requires_grad in the net",
    callbacks.GradientAccumulationScheduler: _EPOCHS + "set data.meta_batch_size, and model.task_chunk for memory",
    callbacks.LearningRateFinder: "meta-learning steps its optimizer itself: set model.optimizer.lr",
    callbacks.BatchSizeFinder: (
        "episodes have no batch_size that it could scale: set data.meta_batch_size, and model.task_chunk for memory"
    ),
    callbacks.SpikeDetection: "it needs a step that returns its loss; a loss that is not finite ends the run anyhow",
    callbacks.OnExceptionCheckpoint: (
        "it may save half an update, and would start the next run from that without being asked; leave it out: every "
        "validation saves last.ckpt"
    ),
}


def check_callbacks(trainer: Trainer, module: MetaModule, tasks: Task, evaluated: list[str]) -> None:
    """Refuses callbacks that can't do what they are there for.

    Args:
        trainer: The trainer with its callbacks.
        module: The algorithm.
        tasks: A small meta-batch, for the names of what training logs.
        evaluated: The names of what an evaluation logs, without ``val/``.

    Raises:
        ConfigError: Names the callback, the reason and the remedy.
    """
    added: list[Callback] = callbacks_of(trainer)
    for callback in added:
        if problem := _problem(callback, trainer):
            raise ConfigError(f"trainer.callbacks holds {type(callback).__name__}, which can't work here: {problem}")
    monitors = [(callback, monitor) for callback in added if (monitor := getattr(callback, "monitor", None))]
    if not monitors:
        return
    known = [f"val/{name}" for name in evaluated]
    for callback, monitor in monitors:
        ours = _is_from(callback, "meta_lightning")
        if not ours and monitor.startswith("train/"):
            known_here = [*known, *_trained(module, tasks, evaluated, added)]
        else:
            known_here = known
        if monitor not in known_here and (ours or not _may_be_logged(monitor, added, module)):
            key = "checkpoint.monitor" if ours else f"the monitor of {type(callback).__name__} in trainer.callbacks"
            raise ConfigError(f"{key} is {monitor}; expected one of {', '.join(known_here)}")
        _check_moment(callback, monitor, trainer)


def _problem(callback: Callback, trainer: Trainer) -> str | None:
    for refused, reason in _REFUSED.items():
        if isinstance(callback, refused):
            return reason
    if isinstance(callback, callbacks.EMAWeightAveraging) and isinstance(trainer.val_check_interval, int):
        start = callback.update_starting_at_step or 0
        if start >= trainer.val_check_interval:
            return (
                f"its update_starting_at_step is {start}, and validations before that would measure the weights that "
                f"training began with; set it below trainer.val_check_interval, which is {trainer.val_check_interval}"
            )
    if isinstance(callback, callbacks.DeviceStatsMonitor) and isinstance(trainer.accelerator, CPUAccelerator):
        return None if RequirementCache("psutil") else "on a CPU it needs psutil: pip install psutil"
    if isinstance(callback, callbacks.ModelCheckpoint) and not _is_from(callback, "meta_lightning"):
        return "; ".join(_checkpoint_problems(callback.state_key, callback)) or None
    return None


def _checkpoint_problems(settings: str, callback: callbacks.ModelCheckpoint) -> Iterator[str]:
    """What a second `ModelCheckpoint` would silently not do; its key lists its settings."""
    if "'train_time_interval': None" not in settings:
        yield "its train_time_interval is not heeded with manual optimization; use every_n_train_steps"
    if not any(f"'every_n_epochs': {number}" in settings for number in (0, 1, None)):
        yield "its every_n_epochs is never reached, because training counts meta-steps; use every_n_train_steps"
    if callback.save_on_exception:
        yield "its save_on_exception may save half an update; every validation saves last.ckpt"
    if callback.filename in ("best", "last"):
        yield f"its filename {callback.filename} is that of the framework's own checkpoint; give it another one"
    if callback.save_last:
        yield "its save_last writes last.ckpt, as the framework itself does; leave it out"


def _check_moment(callback: Callback, monitor: str, trainer: Trainer) -> None:
    """Refuses a metric that is not there, or is out of date, when a callback looks at it."""
    name, at = f"the monitor of {type(callback).__name__} in trainer.callbacks is {monitor}", callback.state_key
    by_steps = "'every_n_train_steps': " in at and "'every_n_train_steps': 0" not in at
    if by_steps and monitor.startswith("val/"):
        raise ConfigError(
            f"{name}, and every_n_train_steps is set: it would judge weights by an earlier validation; leave "
            "every_n_train_steps out, since every validation is looked at"
        )
    interval, logged = trainer.val_check_interval, log_interval(trainer)
    if monitor.startswith("train/") and not by_steps and isinstance(interval, int) and logged > interval:
        raise ConfigError(
            f"{name}, which is logged every {logged} meta-steps, and validations come every {interval}; set "
            f"trainer.log_every_n_steps to at most {interval}"
        )


def _trained(module: MetaModule, tasks: Task, evaluated: list[str], added: list[Callback]) -> list[str]:
    """The names of what training logs."""
    twin = copy.deepcopy(module)
    params, buffers, step = twin.learnable(), dict(twin.named_buffers()), torch.tensor(0, device=module.device)
    with torch.random.fork_rng(devices=[]):
        metrics = twin.meta_step(params, buffers, twin.gather(params, buffers, tasks, step), step)[2]
    names = [*metrics, *(name for name in evaluated if name.endswith("_before"))]
    if any(type(callback).__name__ == "Throughput" for callback in added):
        names += ["tasks_per_second", "ms_per_meta_step"]
    return [f"train/{name}" for name in dict.fromkeys(names)]


def _may_be_logged(monitor: str, added: list[Callback], module: MetaModule) -> bool:
    """Whether something beside the framework may log a metric: a class of the user's, or the monitor of rates."""
    if monitor.startswith("lr-"):
        return any(isinstance(callback, callbacks.LearningRateMonitor) for callback in added)
    steps = ("training_step", "validation_step", "on_validation_epoch_end", "on_train_batch_end", "log", "log_dict")
    own_step = any(
        name in vars(base) and not base.__module__.startswith(("meta_lightning.", "lightning."))
        for base in type(module).__mro__
        for name in steps
    )
    return own_step or not all(_is_from(callback, "meta_lightning", "lightning") for callback in added)


def _is_from(callback: Callback, *packages: str) -> bool:
    return type(callback).__module__.partition(".")[0] in packages
