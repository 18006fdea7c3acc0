"""Communication between the processes of a run: one collective operation per meta-step."""

import signal
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from meta_lightning.engine.supported import precision_problem, strategy_problem
from meta_lightning.errors import ConfigError
from meta_lightning.functional.params import flatten, unflatten
from meta_lightning.types import Metrics, Task

# The signals that end training between meta-steps. If processes receive different ones, the first listed here counts.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Verdict(NamedTuple):
    """The decision that all processes share after a meta-step.

    Attributes:
        finite: Whether the loss and the meta-gradient are finite.
        stop: The number of the signal that ends training; 0 if training goes on.
    """

    finite: bool
    stop: int


# Processes exchange their signals at least once in this many meta-steps, however rarely values are checked.
_AGREE_EVERY = 20


def average_over_ranks(
    tensors: list[Tensor], unwatched: list[Tensor], trainer: Trainer, *, step: int, check_every: int = 1, stop: int = 0
) -> Verdict:
    """Averages tensors over processes, in place, in one collective operation.

    The gradients of `torch.func` do not pass through the hooks with which DDP reduces gradients, so they are reduced
    here.

    Args:
        tensors: Floats of one dtype, with the same shapes on every process. Training needs them to be finite.
        unwatched: Further tensors, which are averaged but not checked.
        trainer: The trainer, which has the number of processes.
        step: Meta-steps taken before this one.
        check_every: Meta-steps between two checks that ``tensors`` are finite. A check makes the host wait for the
            device.
        stop: The number of the signal that this process received; 0 if there was none.

    Returns:
        The verdict, the same on every process. Between two checks all values count as finite.
    """
    if trainer.world_size == 1:
        return Verdict((step + 1) % check_every != 0 or bool(torch.isfinite(flatten(tensors)).all()), stop)
    watched = sum(tensor.numel() for tensor in tensors)
    flags = tensors[0].new_zeros(len(STOP_SIGNALS))
    if stop in STOP_SIGNALS:
        flags[STOP_SIGNALS.index(stop)] = 1
    parts = [*tensors, *unwatched, flags]
    flat = flatten(parts)
    torch.distributed.all_reduce(flat)  # the strategy's own `reduce` would add a barrier
    flat /= trainer.world_size
    *means, flags = unflatten(flat, parts)
    for tensor, mean in zip([*tensors, *unwatched], means, strict=True):
        tensor.copy_(mean)
    if (step + 1) % min(check_every, _AGREE_EVERY):
        return Verdict(finite=True, stop=0)
    finite, *stops = torch.cat([torch.isfinite(flat[:watched]).all()[None], flags > 0]).tolist()
    return Verdict(finite, next((number for number, raised in zip(STOP_SIGNALS, stops, strict=True) if raised), 0))


def diverged(tasks: Task, metrics: Metrics, trainer: Trainer) -> list[int]:
    """The numbers of the tasks whose loss is not finite, over all processes.

    If every loss is finite, the gradient is not, and the numbers of all tasks are returned.
    """
    finite = torch.isfinite(metrics["loss"])
    gathered: list[Any] = [(tasks.index.tolist(), tasks.index[~finite].tolist())]
    if trainer.world_size > 1:
        gathered *= trainer.world_size
        torch.distributed.all_gather_object(gathered, gathered[0])
    every, not_finite = (sorted(number for part in parts for number in part) for parts in zip(*gathered, strict=True))
    return not_finite or every


def check_trainer(trainer: Trainer) -> None:
    """Refuses a trainer whose precision or strategy does not support meta-gradients.

    Raises:
        ConfigError: If so. The message says which setting to use instead.
    """
    problem = precision_problem(trainer.precision) or strategy_problem(type(trainer.strategy).__name__)
    if problem:
        raise ConfigError(problem)
