"""Restoring, rehearsed on throw-away copies before a run folder is made: what was edited by hand shows here."""

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.migration.utils import migrate_checkpoint
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from meta_lightning.algorithms import MetaModule
from meta_lightning.algorithms.outer import schedule
from meta_lightning.errors import ConfigError, first_line, shown

# More meta-steps than anybody takes: the numbers of episodes that follow from more would overflow.
_MOST_STEPS = 2**32


def rehearse(stage: str, path: Path, checkpoint: dict[str, Any], model: MetaModule, trainer: Trainer) -> None:
    """Restores a checkpoint's entries into copies, in the way and order in which the trainer will.

    Args:
        stage: ``fit``, ``validate`` or ``test``.
        path: Named in the message.
        checkpoint: Of kinds that were checked, with the model's weights; it is used up.
        model: The algorithm; stays as it is.
        trainer: The trainer; stays as it is.

    Raises:
        ConfigError: Names the entry that can't be restored.
    """
    with _blamed(path, "pytorch-lightning_version"):
        migrate_checkpoint(checkpoint)
    twin = copy.deepcopy(model)
    with _blamed(path, "state_dict"):
        twin.load_state_dict(checkpoint["state_dict"])
    for name, param in twin.named_parameters():
        if param.isnan().any():
            raise ConfigError(f"{path}: {name} holds NaN, so the run had diverged; use another checkpoint")
    _restore_callbacks(path, checkpoint.get("callbacks", {}), trainer)
    if "loops" in checkpoint:
        _check_loop(path, checkpoint["loops"].get(f"{stage}_loop"), f"loops.{stage}_loop", stage, trainer)
    if stage == "fit":
        _check_step(path, checkpoint)
        _restore_outer(path, checkpoint, twin)


@contextmanager
def _blamed(path: Path, entry: str) -> Iterator[None]:
    """Whatever torch or Lightning raise while they restore an entry is its fault: no code of ours runs in here."""
    try:
        with warnings.catch_warnings(action="ignore"):  # the trainer will give them
            yield
    except Exception as error:
        raise ConfigError(
            f"{path}: {entry} can't be restored ({first_line(error)}); expected it as `fit` wrote it: check --ckpt_path"
        ) from error


def _restore_callbacks(path: Path, states: dict[str, Any], trainer: Trainer) -> None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by Lightning's connectors
        with _blamed(path, f"callbacks.{type(callback).__name__}"):
            if state := states.get(callback.state_key):
                copy.copy(callback).load_state_dict(copy.deepcopy(state))


def _check_loop(path: Path, found: Any, name: str, stage: str, trainer: Trainer) -> None:
    """Lightning takes any counters: those that are none would end training somewhere, in a traceback."""
    if not isinstance(found, dict):
        raise _unlike(path, name, found, "dict")
    expected = getattr(trainer, f"{stage}_loop").state_dict()
    if isinstance(found.get("state_dict"), dict) and found["state_dict"]:
        expected["state_dict"] = {"combined_loader": [{}]}  # the loaders of data.module have no state
    for key in expected.keys() & found.keys():
        _check_form(path, found[key], expected[key], f"{name}.{key}", _is_count)


def _check_step(path: Path, checkpoint: dict[str, Any]) -> None:
    progress = checkpoint["loops"]["fit_loop"].get("epoch_loop.manual_optimization.optim_step_progress", {})
    counted = progress.get("total", {}).get("completed")
    if checkpoint["global_step"] != counted:
        raise ConfigError(
            f"{path}: global_step is {checkpoint['global_step']}, but loops counts {counted} meta-steps; expected the "
            "same: check --ckpt_path"
        )


def _restore_outer(path: Path, checkpoint: dict[str, Any], twin: MetaModule) -> None:
    """Optimizer and schedule take a step with a gradient of zeros, which would find what they can't use."""
    params = [param for param in twin.parameters() if param.requires_grad]
    optimizer = twin.optimizer(params)
    scheduler = schedule(twin.lr_scheduler, optimizer) if twin.lr_scheduler else None
    for entry, count in (("optimizer_states", 1), ("lr_schedulers", int(scheduler is not None))):
        if len(checkpoint[entry]) != count:
            raise _unlike(path, entry, checkpoint[entry], f"a list of {count}")
    with _blamed(path, "optimizer_states"):
        optimizer.load_state_dict(checkpoint["optimizer_states"][0])
    known = _with_state(optimizer)
    for param in params:
        param.grad = torch.zeros_like(param)
    if scheduler is not None:
        _restore_schedule(path, checkpoint["lr_schedulers"][0], scheduler)
    with _blamed(path, "optimizer_states"):
        optimizer.step()
    if scheduler is not None:
        with _blamed(path, "lr_schedulers"):
            scheduler.step()
    if checkpoint["global_step"] and (lost := len(_with_state(optimizer)) - len(known)):
        raise ConfigError(f"{path}: optimizer_states lacks {lost} of {len(params)} parameters: check --ckpt_path")
    if not all(torch.isfinite(param).all() for param in params):
        raise ConfigError(f"{path}: optimizer_states holds values that are not finite: check --ckpt_path")


def _with_state(optimizer: Optimizer) -> list[Any]:
    """The parameters that an optimizer remembers something of."""
    return [param for param, state in optimizer.state.items() if isinstance(state, dict) and state]


def _restore_schedule(path: Path, found: Any, scheduler: LRScheduler) -> None:
    expected = scheduler.state_dict()
    if not isinstance(found, dict):
        raise _unlike(path, "lr_schedulers", found, "dict")
    for key, value in found.items():
        if key in expected:
            _check_form(path, value, expected[key], f"lr_schedulers.{key}", _is_number)
        elif not isinstance(key, str) or hasattr(scheduler, key):  # loaded, it would take the place of a method
            raise ConfigError(f"{path}: lr_schedulers.{key} is no state of a schedule: check --ckpt_path")
    with _blamed(path, "lr_schedulers"):
        scheduler.load_state_dict(found)


def _check_form(path: Path, found: Any, expected: Any, name: str, is_number: Callable[[Any], bool]) -> None:
    """Refuses what differs in form from what this run would save: keys, lengths, and what is a number, a flag, a word.

    Args:
        path: Named in the message.
        found: What the checkpoint has.
        expected: What this run has now.
        name: Named in the message.
        is_number: Whether a value may stand where this run has a number.
    """
    if isinstance(expected, dict):
        if not isinstance(found, dict) or found.keys() != expected.keys():
            raise _unlike(path, name, found, f"dict of {', '.join(map(str, expected)) or 'nothing'}")
        inside = [(found[key], expected[key], f"{name}.{key}") for key in expected]
    elif isinstance(expected, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(expected):
            raise _unlike(path, name, found, f"a list of {len(expected)}")
        inside = [(one, other, name) for one, other in zip(found, expected, strict=True)]
    else:
        inside = []
        if isinstance(expected, bool | str):
            fits = isinstance(found, type(expected))
        else:
            fits = is_number(found) or not isinstance(expected, int | float)
        if not fits:
            raise _unlike(path, name, found, f"such as {expected!r}")
    for one, other, inner in inside:
        _check_form(path, one, other, inner, is_number)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_STEPS


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _unlike(path: Path, name: str, found: Any, expected: str) -> ConfigError:
    return ConfigError(f"{path}: {name} is {shown(found)}; expected {expected}, as `fit` wrote it: check --ckpt_path")
