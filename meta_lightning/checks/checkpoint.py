"""Checks that a checkpoint fits the run that is about to start from it."""

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.migration.utils import migrate_checkpoint
from torch import Tensor
from torch.optim import Optimizer

from meta_lightning.algorithms import MetaModule
from meta_lightning.console import first_line, notify, printable
from meta_lightning.data import EpisodicDataModule
from meta_lightning.engine.outer_loop import outer_of
from meta_lightning.engine.trainer_parts import callbacks_of
from meta_lightning.engine.training_record import describe_change
from meta_lightning.errors import ConfigError
from meta_lightning.runs.changes import differences
from meta_lightning.runs.checkpoint import Checkpoint
from meta_lightning.runs.folders import run_folder

_NEEDED_TO_RESUME = ("optimizer_states", "lr_schedulers", "loops", "global_step", "settings")


def check_checkpoint(
    stage: str,
    model: MetaModule,
    data: EpisodicDataModule,
    trainer: Trainer,
    checkpoint: Checkpoint,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Refuses a checkpoint that the run can't start from, and prints a note for each setting that differs.

    Args:
        stage: ``fit``, ``validate`` or ``test``.
        model: The algorithm.
        data: The episodes.
        trainer: The trainer.
        checkpoint: The checkpoint to resume or to evaluate.
        settings: The settings of the command; None if there is no command line.

    Raises:
        ConfigError: Names the entry that does not fit and the key to change.
    """
    if stage != "fit":
        _check_ways(model, data, checkpoint)
    check_weights(checkpoint.path, checkpoint.weights, model.state_dict())
    source, trained_on = data.source.fingerprint(), checkpoint.record.data.get("source")
    if stage == "fit":
        _check_averaging(checkpoint, trainer)
        check_resumable(checkpoint, model.settings(), data.state_dict(), model.step_seed)
    elif trained_on not in (None, source):
        notify(
            f"Note: data.source is {source} here and {printable(trained_on)} in the checkpoint: "
            "the net may have been trained on classes of this evaluation"
        )
    check_restorable(stage, checkpoint, model, trainer)
    changed = checkpoint.record.differences(model.settings())
    if settings is not None and "config" in checkpoint.content:
        changed |= differences(settings, checkpoint.content["config"])
    for key, values in changed.items():
        notify(f"Note: {describe_change(key, *values)}")


def _check_averaging(checkpoint: Checkpoint, trainer: Trainer) -> None:
    averages = any(isinstance(callback, WeightAveraging) for callback in callbacks_of(trainer))
    if "current_model_state" in checkpoint.content and not averages:
        raise ConfigError(
            f"{checkpoint.path} holds averaged weights, and trainer.callbacks has no WeightAveraging that could tell "
            "them from those that training goes on from; add the callback that the run had, or start a new run"
        )


def _check_ways(model: MetaModule, data: EpisodicDataModule, checkpoint: Checkpoint) -> None:
    ways = (checkpoint.record.data.get("train_shape") or [None])[0]
    if model.net_predicts and ways is not None and data.eval_shape.ways not in (None, ways):
        raise ConfigError(
            f"data.ways is {data.eval_shape.ways}, but the net's head in {checkpoint.path} was trained for {ways} "
            f"ways: set it to {ways}; only methods that build the classifier from the support set (ProtoNetModule) "
            "can be tested at other ways"
        )


def check_weights(path: Path, weights: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Refuses weights that are of another model.

    Args:
        path: The checkpoint, for the message.
        weights: The checkpoint's ``state_dict``.
        expected: The model's ``state_dict``.

    Raises:
        ConfigError: If a tensor is absent, unexpected or of another shape.
    """
    for name in [*expected, *weights]:
        saved_shape = list(weights[name].shape) if name in weights else "absent"
        model_shape = list(expected[name].shape) if name in expected else "absent"
        if saved_shape != model_shape:
            raise ConfigError(
                f"{path} is of another model: {printable(name)} is {saved_shape} there and {model_shape} here; "
                "check model.class_path and model.init_args.net, or --ckpt_path"
            )


def check_resumable(checkpoint: Checkpoint, settings: dict[str, Any], episodes: dict[str, Any], step_seed: int) -> None:
    """Refuses to resume a run with other episodes, another optimizer or another seed.

    Args:
        checkpoint: The checkpoint to resume.
        settings: The settings of the algorithm in this run.
        episodes: The settings of the data in this run.
        step_seed: The seed of random operations such as dropout in this run.

    Raises:
        ConfigError: If a setting that a resumed run must keep has changed, or the checkpoint lacks an entry.
    """
    path, before = checkpoint.path, checkpoint.record
    missing = [key for key in _NEEDED_TO_RESUME if key not in checkpoint.content]
    if missing:
        raise ConfigError(
            f"{path} can't be resumed: it lacks {', '.join(missing)}; use it with test, or start a new run"
        )
    names = ["optimizer"]
    if "lr_scheduler" in before.settings | settings:  # the saved state of a schedule includes the rate
        names += [key for key in before.settings | settings if key.startswith(("optimizer.", "lr_scheduler"))]
    pairs = [(f"model.{key}", before.settings.get(key), settings.get(key)) for key in names]
    data = ("source", "train_shape", "meta_batch_size", "seed")
    pairs += [(f"data.{key}", before.data.get(key), episodes[key]) for key in data]
    pairs.append(("seed_everything", checkpoint.content.get("step_seed", step_seed), step_seed))
    for key, saved, current in pairs:
        if saved != current:
            raise ConfigError(
                f"{key} is {printable(current)}, but {printable(saved)} in {path}, and a resumed run must keep it; "
                f"set it back (--config {run_folder(path)}/config.yaml has it), or start a new run without --ckpt_path"
            )


def check_restorable(stage: str, checkpoint: Checkpoint, model: MetaModule, trainer: Trainer) -> None:
    """Restores the entries of a checkpoint on trial, into copies, in the same order as the trainer.

    Args:
        stage: ``fit``, ``validate`` or ``test``.
        checkpoint: A checkpoint whose weights fit the model. Its content is migrated to Lightning's current format in
            place.
        model: The algorithm, which is not changed.
        trainer: The trainer, which is not changed.

    Raises:
        ConfigError: If an entry can't be restored.
    """
    path, content = checkpoint.path, checkpoint.content
    with _restoring(path, "pytorch-lightning_version"):
        migrate_checkpoint(content)
    trial = copy.deepcopy(model)
    trial.trainer = trainer  # for a `configure_optimizers` that asks it
    with _restoring(path, "state_dict"):
        trial.load_state_dict(content["state_dict"])
    for name, param in trial.named_parameters():
        if param.isnan().any():
            raise ConfigError(f"{path}: {name} holds NaN, because the run diverged; use another checkpoint")
    for callback in callbacks_of(trainer):
        with _restoring(path, f"callbacks.{type(callback).__name__}"):
            if state := content.get("callbacks", {}).get(callback.state_key):
                copy.copy(callback).load_state_dict(copy.deepcopy(state))
    if stage == "fit":
        _restore_outer_loop(path, content, trial)


@contextmanager
def _restoring(path: Path, entry: str) -> Iterator[None]:
    """Turns any error of torch or Lightning while an entry is restored into one that names the entry."""
    try:
        with warnings.catch_warnings(action="ignore"):  # the trainer repeats them
            yield
    except Exception as error:
        raise ConfigError(
            f"{path}: {entry} can't be restored ({first_line(error)}); expected it as `fit` wrote it: check --ckpt_path"
        ) from error


def _restore_outer_loop(path: Path, content: dict[str, Any], trial: MetaModule) -> None:
    """Restores optimizer and schedule and takes a step with zero gradients, which fails if their state is unusable."""
    optimizer, scheduler = outer_of(trial.configure_optimizers())
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for entry, count in (("optimizer_states", 1), ("lr_schedulers", int(scheduler is not None))):
        if len(content[entry]) != count:
            raise ConfigError(
                f"{path}: {entry} is {printable(content[entry])}; expected a list of {count}, as `fit` wrote it: "
                "check --ckpt_path"
            )
    with _restoring(path, "optimizer_states"):
        optimizer.load_state_dict(content["optimizer_states"][0])
    restored = _count_states(optimizer)
    for param in params:
        param.grad = torch.zeros_like(param)
    with _restoring(path, "lr_schedulers"):
        if scheduler is not None:
            scheduler.load_state_dict(content["lr_schedulers"][0])
    with _restoring(path, "optimizer_states"):
        optimizer.step()
    with _restoring(path, "lr_schedulers"):
        if scheduler is not None:
            scheduler.step()
    if content["global_step"] and (lost := _count_states(optimizer) - restored):
        raise ConfigError(f"{path}: optimizer_states lacks {lost} of {len(params)} parameters: check --ckpt_path")
    if not all(torch.isfinite(param).all() for param in params):
        raise ConfigError(f"{path}: optimizer_states holds values that are not finite: check --ckpt_path")


def _count_states(optimizer: Optimizer) -> int:
    """The number of parameters that an optimizer holds state for."""
    return sum(bool(state) for state in optimizer.state.values() if isinstance(state, dict))
