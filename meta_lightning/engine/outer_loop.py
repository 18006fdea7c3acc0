"""The outer loop: building, describing and stepping the user's optimizer and learning-rate schedule."""

import copy
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from meta_lightning.console import first_line
from meta_lightning.engine.user_code import find_place, summarize
from meta_lightning.errors import ConfigError
from meta_lightning.types import Params

# A schedule is tried for this many meta-steps, which takes less than a second.
_TRIED_STEPS = 20_000


class Outer(NamedTuple):
    """The outer optimizer and its schedule; None for a constant rate."""

    optimizer: Optimizer
    scheduler: LRScheduler | None = None


def outer_of(configured: Any) -> Outer:
    """The optimizer and the schedule in what `configure_optimizers` returns, in any of Lightning's forms.

    Raises:
        ConfigError: If there is not exactly one optimizer and at most one schedule, stepped once per meta-step.

    Example:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
        >>> outer_of({"optimizer": optimizer}) == outer_of([optimizer]) == Outer(optimizer)
        True
    """
    schedulers: list[Any] = []
    if isinstance(configured, tuple) and len(configured) == 2 and all(isinstance(part, list) for part in configured):
        configured, schedulers = configured
    parts = [*configured] if isinstance(configured, list | tuple) else [configured]
    optimizers = [part["optimizer"] if isinstance(part, Mapping) else part for part in parts]
    schedulers = schedulers + [part["lr_scheduler"] for part in parts if isinstance(part, Mapping) and len(part) > 1]
    if len(optimizers) != 1 or not isinstance(optimizers[0], Optimizer):
        found = f"{len(optimizers)} optimizers" if len(optimizers) != 1 else type(optimizers[0]).__name__
        raise ConfigError(
            f"configure_optimizers returns {found}, but a meta-step steps one optimizer: return one with a parameter "
            "group for each rate (or leave the method out, and override parameter_groups)"
        )
    if len(schedulers) > 1:
        raise ConfigError(
            f"configure_optimizers returns {len(schedulers)} schedules; expected one at most: join them with "
            "torch.optim.lr_scheduler.SequentialLR or ChainedScheduler"
        )
    return Outer(optimizers[0], _schedule_of(schedulers[0]) if schedulers else None)


def _schedule_of(configured: Any) -> LRScheduler:
    options = configured if isinstance(configured, Mapping) else {"scheduler": configured}
    for key, expected in (("interval", "step"), ("frequency", 1)):
        if (found := options.get(key, expected)) != expected:
            raise ConfigError(
                f"configure_optimizers returns a schedule with {key} {found}, but a schedule is stepped once per "
                f"meta-step: set {key} to {expected}"
            )
    return _check_schedule(options["scheduler"])


def _check_schedule(scheduler: LRScheduler) -> LRScheduler:
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ConfigError(
            "model.lr_scheduler is ReduceLROnPlateau, which needs a metric; expected a schedule of the meta-step, for "
            "example torch.optim.lr_scheduler.CosineAnnealingLR"
        )
    return scheduler


def check_gradient_limits(check_finite_every: int, **limits: float | None) -> None:
    """Refuses settings of the outer update that are out of range.

    Args:
        check_finite_every: Meta-steps between two checks that loss and meta-gradient are finite.
        **limits: Limits of the meta-gradient by their keys in ``model``; None for no limit.

    Raises:
        ConfigError: If ``check_finite_every`` is below 1, or a limit is not above 0.
    """
    if check_finite_every < 1:
        raise ConfigError(f"model.check_finite_every is {check_finite_every}; expected 1 or more meta-steps")
    for key, limit in limits.items():
        if limit is not None and not limit > 0:
            raise ConfigError(f"model.{key} is {limit}; expected more than 0, or null for no limit")


def make_schedule(make: LRSchedulerCallable, optimizer: Optimizer) -> LRScheduler:
    """Builds the learning-rate schedule of an optimizer.

    Raises:
        ConfigError: If the schedule follows a metric instead of the meta-step.
    """
    return _check_schedule(make(optimizer))


def outer_settings(outer: Outer) -> dict[str, Any]:
    """The classes and the initial settings of the optimizer and the schedule, by dotted name.

    A setting in which parameter groups differ is a list with a value for each group.
    """
    optimizer, scheduler = outer
    described: dict[str, Any] = {"optimizer": type(optimizer).__name__}
    for name in optimizer.defaults:
        values = [_initial(group, name) for group in optimizer.param_groups]
        described[f"optimizer.{name}"] = values[0] if all(value == values[0] for value in values) else values
    if scheduler is not None:
        described["lr_scheduler"] = type(scheduler).__name__
        described |= {f"lr_scheduler.{name}": value for name, value in vars(scheduler).items() if name[0] != "_"}
    return described


def _initial(group: dict[str, Any], name: str) -> Any:
    """A setting of a group before a schedule changed it."""
    return group.get("initial_lr", group[name]) if name == "lr" else group[name]


def apply_changes(module: LightningModule, trained_with: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Gives a restored optimizer the settings that this run changed, group by group.

    A schedule owns the settings and continues from its saved state, so nothing is changed where there is one.

    Args:
        module: The module, which owns the restored optimizer.
        trained_with: The settings of the checkpoint, see `outer_settings`; empty for a run that is not resumed.
        settings: The settings of this run.
    """
    if not trained_with or module.lr_schedulers():
        return
    restored, made = cast(LightningOptimizer, module.optimizers()).optimizer, outer_of(module.configure_optimizers())
    for name in made.optimizer.defaults:
        key = f"optimizer.{name}"
        if key in trained_with and trained_with[key] != settings.get(key):
            for group, own in zip(restored.param_groups, made.optimizer.param_groups, strict=True):
                group[name] = own[name]


def try_outer_loop(module: LightningModule, trainer: Trainer) -> None:
    """Takes an outer step and runs the schedule to its end, with a copy of the module that is thrown away.

    Args:
        module: The module, which is not changed.
        trainer: The trainer, which has the number of meta-steps.

    Raises:
        ConfigError: If optimizer or schedule can't be made, a step fails, or the schedule ends before the run.
    """
    trial = copy.deepcopy(module)
    trial.trainer = trainer
    with warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]):
        try:
            optimizer, scheduler = outer_of(trial.configure_optimizers())
        except (ValueError, TypeError, ZeroDivisionError, NotImplementedError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"model.optimizer or model.lr_scheduler can't be created: {_reason(error)}") from error
        _try_step(optimizer)
        if scheduler is not None:
            _try_schedule(scheduler, trainer.max_steps)


def _reason(error: Exception) -> str:
    return summarize(error) if find_place(error) else first_line(error)


def _try_step(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = torch.zeros_like(param)
    try:
        optimizer.step()
    except Exception as error:  # a class of the user's may raise any
        raise ConfigError(
            f"model.optimizer is {type(optimizer).__name__}, whose step fails ({_reason(error)}); expected an "
            "optimizer that takes dense gradients and no closure, for example torch.optim.Adam"
        ) from error


def _try_schedule(scheduler: LRScheduler, max_steps: int) -> None:
    name, total = type(scheduler).__name__, getattr(scheduler, "total_steps", None)
    if isinstance(total, int) and total < max_steps:
        raise ConfigError(
            f"model.lr_scheduler.total_steps is {total}, but trainer.max_steps is {max_steps}, and {name} can't go on "
            f"after its end; set total_steps to {max_steps}, or max_steps to {total}"
        )
    for step in range(1, min(max_steps, _TRIED_STEPS) + 1):
        try:
            scheduler.step()
        except Exception as error:  # a function of the user's may raise any
            raise ConfigError(
                f"model.lr_scheduler is {name}, which ends at meta-step {step} ({_reason(error)}), but "
                f"trainer.max_steps is {max_steps}; make the schedule last as long, or set max_steps to {step - 1}"
            ) from error


def reseed(seed: int, device: torch.device) -> None:
    """Seeds the CPU's random generator and, if the device is a GPU, the GPU's."""
    torch.default_generator.manual_seed(seed % 2**63)  # `torch.manual_seed` takes a hundred times as long
    if device.type == "cuda":
        torch.cuda.manual_seed(seed % 2**63)


def update(module: LightningModule, grads: Params, clip_norm: float | None, clip_value: float | None) -> None:
    """Takes one outer step: clips the meta-gradient, then steps the optimizer and the schedule.

    Args:
        module: The module that owns the parameters, the optimizer and the schedule.
        grads: The meta-gradient, by parameter name.
        clip_norm: The largest norm of the meta-gradient; None for no limit.
        clip_value: The largest absolute value of its entries; None for no limit.
    """
    optimizer = cast(LightningOptimizer, module.optimizers())
    clipped = clip_norm is not None or clip_value is not None
    for name, param in module.named_parameters():
        if name in grads:
            # Clipping works in place, so it would scale twice a gradient that two parameters share.
            param.grad = grads[name].clone() if clipped else grads[name]
    for limit, algorithm in ((clip_norm, "norm"), (clip_value, "value")):
        if limit is not None:
            module.clip_gradients(optimizer.optimizer, limit, algorithm)
    optimizer.step()
    optimizer.zero_grad()
    if (record := getattr(module, "record", None)) is not None:
        module.record = record._replace(meta_steps=record.meta_steps + 1)
    scheduler = module.lr_schedulers()
    if isinstance(scheduler, LRScheduler):
        scheduler.step()
