"""What processes tell each other in a meta-step: one collective."""

import signal
from typing import Any, NamedTuple, cast

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from meta_lightning.errors import ConfigError
from meta_lightning.functional.params import flatten, unflatten
from meta_lightning.types import Metrics, Task

# The signals that end training between meta-steps; where processes got different ones, the first counts.
STOPS = (signal.SIGTERM, signal.SIGINT)


class Verdict(NamedTuple):
    """What all processes agree on after a meta-step.

    Attributes:
        finite: Whether all values are.
        stop: The signal that asks training to end; 0 for none.
    """

    finite: bool
    stop: int


def average_over_ranks(tensors: list[Tensor], trainer: Trainer, *, check: bool = True, stop: int = 0) -> Verdict:
    """Averages tensors over processes, in place, in one collective.

    Gradients made by `torch.func` never pass through the hooks that would reduce them, so this is the only place where
    processes meet.

    Args:
        tensors: The same shapes on every process, floats of one kind.
        trainer: Knows the processes.
        check: Whether to find out about the values and the other processes' signals: the host waits for the device.
        stop: The signal that this process got, if any.

    Returns:
        The verdict, the same on every process; without ``check`` all is well.
    """
    flat = flatten(tensors)
    if trainer.world_size == 1:
        return Verdict(not check or bool(torch.isfinite(flat).all()), stop)
    flags = flat.new_tensor([float(stop == number) for number in STOPS])
    flat = cast(Tensor, trainer.strategy.reduce(torch.cat([flat, flags]), reduce_op="mean"))
    for tensor, mean in zip(tensors, unflatten(flat[: -len(STOPS)], tensors), strict=True):
        tensor.copy_(mean)
    if not check:
        return Verdict(finite=True, stop=0)
    finite, *stops = torch.cat([torch.isfinite(flat).all()[None], flat[-len(STOPS) :] > 0]).tolist()
    return Verdict(finite, next((number for number, on in zip(STOPS, stops, strict=True) if on), 0))


def diverged(tasks: Task, metrics: Metrics, trainer: Trainer) -> list[int]:
    """The numbers of the tasks, on all processes, whose loss is not finite; of all where only the gradient is not."""
    finite = torch.isfinite(metrics["loss"])
    found: list[Any] = [(tasks.index.tolist(), tasks.index[~finite].tolist())]
    if trainer.world_size > 1:
        found *= trainer.world_size
        torch.distributed.all_gather_object(found, found[0])
    everyone, broken = (sorted(number for part in parts for number in part) for parts in zip(*found, strict=True))
    return broken or everyone


def check_trainer(trainer: Trainer) -> None:
    """Refuses half precision, and strategies that keep only a part of each parameter on a process.

    Raises:
        ConfigError: Names the precision or the strategy.
    """
    if trainer.precision in ("16-mixed", "16-true"):
        raise ConfigError(
            f"trainer.precision is {trainer.precision}; inner gradients are not scaled and vanish in half precision: "
            "use bf16-mixed or 32-true"
        )
    name = type(trainer.strategy).__name__
    if any(sharded in name for sharded in ("FSDP", "DeepSpeed", "ModelParallel")):
        raise ConfigError(
            f"trainer.strategy is {name}, which splits parameters over processes; meta-gradients need them whole: "
            "use ddp"
        )
