"""The outer optimizer and its schedule: the user's, made and described."""

from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from meta_lightning.errors import ConfigError


def schedule(make: LRSchedulerCallable, optimizer: Optimizer) -> LRScheduler:
    """The schedule of an optimizer.

    Raises:
        ConfigError: If it is no function of the meta-step.
    """
    scheduler = make(optimizer)
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ConfigError(
            "model.lr_scheduler is ReduceLROnPlateau, which needs a metric; expected a schedule of the meta-step, for "
            "example torch.optim.lr_scheduler.CosineAnnealingLR"
        )
    return scheduler


def outer_settings(make_optimizer: OptimizerCallable, make_schedule: LRSchedulerCallable | None) -> dict[str, Any]:
    """The classes of optimizer and schedule and their settings as they are before the first step, by dotted name."""
    optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(1))])
    described: dict[str, Any] = {"optimizer": type(optimizer).__name__}
    described |= {f"optimizer.{name}": value for name, value in optimizer.defaults.items()}
    if make_schedule is not None:
        scheduler = make_schedule(optimizer)
        described["lr_scheduler"] = type(scheduler).__name__
        described |= {f"lr_scheduler.{name}": value for name, value in vars(scheduler).items() if name[0] != "_"}
    return described
