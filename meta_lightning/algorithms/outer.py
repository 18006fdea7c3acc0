"""The outer loop: the user's optimizer and schedule, made, described and stepped."""

from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from meta_lightning.errors import ConfigError
from meta_lightning.types import Params


def check_limits(check_finite_every: int, **limits: float | None) -> None:
    """Refuses limits that are none.

    Raises:
        ConfigError: If ``check_finite_every`` is below 1, or a limit of the gradient is not above 0.
    """
    if check_finite_every < 1:
        raise ConfigError(f"model.check_finite_every is {check_finite_every}; expected 1 or more meta-steps")
    for key, limit in limits.items():
        if limit is not None and not limit > 0:
            raise ConfigError(f"model.{key} is {limit}; expected more than 0, or null for no limit")


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


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Those of some settings that a checkpoint can hold: numbers, words, and lists of them."""
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    kept = (bool, int, float, str)
    return {
        name: value
        for name, value in lists.items()
        if isinstance(value, kept) or (isinstance(value, list) and all(isinstance(item, kept) for item in value))
    }


def reseed(seed: int, device: torch.device) -> None:
    """Starts the generators that a device draws from anew."""
    torch.default_generator.manual_seed(seed % 2**63)  # a hundredth of what `torch.manual_seed` costs
    if device.type == "cuda":
        torch.cuda.manual_seed(seed % 2**63)


def update(module: LightningModule, grads: Params, clip_norm: float | None, clip_value: float | None) -> None:
    """Takes one outer step.

    Args:
        module: Its optimizer and schedule step.
        grads: The meta-gradient, by parameter.
        clip_norm: Its largest norm; None for no limit.
        clip_value: The largest size of its entries; None for no limit.
    """
    optimizer = cast(LightningOptimizer, module.optimizers())
    clipped = clip_norm is not None or clip_value is not None
    for name, param in module.named_parameters():
        if name in grads:
            # Two parameters may share one gradient, which clipping in place would then scale twice.
            param.grad = grads[name].clone() if clipped else grads[name]
    for limit, algorithm in ((clip_norm, "norm"), (clip_value, "value")):
        if limit is not None:
            module.clip_gradients(optimizer.optimizer, limit, algorithm)
    optimizer.step()
    optimizer.zero_grad()
    scheduler = module.lr_schedulers()
    if isinstance(scheduler, LRScheduler):
        scheduler.step()
