"""The checks between the construction of a run's objects and the creation of its folder."""

import copy
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

from lightning.pytorch import Trainer

from meta_lightning.algorithms import MetaModule
from meta_lightning.checks.callbacks import check_callbacks
from meta_lightning.checks.checkpoint import check_checkpoint
from meta_lightning.checks.gradient import check_gradient
from meta_lightning.checks.net import check_constructed, check_learns, check_net
from meta_lightning.console import notify
from meta_lightning.data import EpisodicDataModule
from meta_lightning.engine.distributed import check_trainer
from meta_lightning.engine.launcher import launch_problem
from meta_lightning.engine.outer_loop import try_outer_loop
from meta_lightning.engine.trainer_parts import datamodule_of, is_dry_run
from meta_lightning.errors import ConfigError
from meta_lightning.runs.checkpoint import Checkpoint
from meta_lightning.runs.folders import folder_of, run_folder

# The runs that the command line has checked and not started yet. Lightning calls `configure_callbacks` in between, and
# the trainer is all that the two have in common.
_checked: WeakKeyDictionary[Trainer, str] = WeakKeyDictionary()


def check_run(
    stage: str,
    model: MetaModule,
    data: EpisodicDataModule,
    trainer: Trainer,
    checkpoint: Path | None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Refuses a run that can't work, and prints a note for each setting that differs from its checkpoint.

    Args:
        stage: ``fit``, ``validate`` or ``test``.
        model: The algorithm.
        data: The episodes.
        trainer: The trainer.
        checkpoint: The checkpoint to resume or to evaluate; None for a new run or an untrained net.
        settings: The settings of the command; None if there is no command line.

    Raises:
        ConfigError: If the run can't work. The message names the key to change.
    """
    check_objects(stage, model, data, trainer)
    _checked[trainer] = stage
    if stage == "fit":
        _check_folder(trainer, checkpoint)
    if checkpoint is not None:
        check_checkpoint(stage, model, data, trainer, Checkpoint.read(checkpoint), settings)


def check_objects(stage: str, model: MetaModule, data: EpisodicDataModule, trainer: Trainer) -> None:
    """`check_run` without the run folder and the checkpoint, which Lightning does not know before it starts.

    Args:
        stage: ``fit``, ``validate`` or ``test``.
        model: The algorithm.
        data: The episodes.
        trainer: The trainer.

    Raises:
        ConfigError: As in `check_run`.
    """
    check_constructed(model)
    check_trainer(trainer)
    if problem := launch_problem(trainer.world_size // trainer.num_nodes, trainer.num_nodes):
        raise ConfigError(problem)
    _check_length(stage, trainer)
    model.trainer = trainer  # for a `configure_optimizers` that asks it
    data.prepare_data()
    data.setup(stage)
    data.check_shares(stage, trainer.world_size)
    if data.replayed is not None and stage in ("validate", "test") and not stage.startswith(data.replayed):
        notify(f"Note: data.episodes holds {data.replayed} episodes; {stage} draws other episodes from data.eval_seed")
    if stage == "fit":
        check_learns(model)
    given, model = model, _as_it_will_run(model, trainer)
    logged = check_net(model, data.sample(stage))
    if stage == "fit":
        tasks = data.small_sample(3)
        check_callbacks(trainer, model, tasks, logged)
        try_outer_loop(given, trainer)
        check_gradient(model, tasks)
        if model.check_finite_every > 1:
            notify(
                f"Note: model.check_finite_every is {model.check_finite_every}: weights and checkpoints may be spoilt "
                "before the run stops at a loss that is not finite"
            )


def was_checked(trainer: Trainer, stage: str) -> bool:
    """Whether `check_run` has checked the run that the trainer is about to start. The answer holds for one run."""
    return _checked.pop(trainer, None) == stage


def _as_it_will_run(model: MetaModule, trainer: Trainer) -> MetaModule:
    """A copy on the CPU in the precision of the run, once the data are attached to a trainer and come in it."""
    twin = copy.deepcopy(model).to("cpu")
    for name in [name for name in vars(twin) if inspect.isfunction(getattr(type(twin), name, None))]:
        delattr(twin, name)  # a method that was replaced on the instance would use the weights of the original
    return cast(MetaModule, trainer.precision_plugin.convert_module(twin)) if datamodule_of(trainer) else twin


def _check_length(stage: str, trainer: Trainer) -> None:
    """Refuses a length in epochs: an epoch of episodes has no end, and validations come at its end."""
    epochs = trainer.max_epochs
    if stage == "fit" and trainer.max_steps < 0 and epochs is not None and epochs >= 0:
        if isinstance(trainer.limit_train_batches, int):
            return
        raise ConfigError(
            f"trainer.max_epochs is {epochs}, but training counts meta-steps, and an epoch of episodes has no end; set "
            "max_steps, and val_check_interval with check_val_every_n_epoch=None for validations"
        )


def _check_folder(trainer: Trainer, checkpoint: Path | None) -> None:
    run = folder_of(trainer)
    folder = run / "checkpoints" if trainer.loggers else run
    if checkpoint is not None and run_folder(checkpoint).resolve() in (run.resolve(), folder.parent.resolve()):
        return
    if not is_dry_run(trainer) and any(folder.glob("*.ckpt")):
        remedy = "give the logger another version or name" if trainer.loggers else "set trainer.default_root_dir"
        raise ConfigError(
            f"{folder} holds the checkpoints of another run; resume that run with --ckpt_path last, or {remedy}"
        )
