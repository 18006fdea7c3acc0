"""What processes tell each other in a meta-step: one collective."""

import signal
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from meta_lightning.errors import ConfigError
from meta_lightning.functional.params import flatten, unflatten
from meta_lightning.limits import precision_problem, strategy_problem
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


# Processes tell each other of signals at least this often, however rarely values are checked.
_AGREE_EVERY = 20


def average_over_ranks(
    tensors: list[Tensor], unwatched: list[Tensor], trainer: Trainer, *, step: int, check_every: int = 1, stop: int = 0
) -> Verdict:
    """Averages tensors over processes, in place, in one collective.

    Gradients made by `torch.func` never pass through the hooks that would reduce them, so this is the only place where
    processes meet.

    Args:
        tensors: The same shapes on every process, floats of one kind; all must be finite.
        unwatched: More of them, which need not be.
        trainer: Knows the processes.
        step: Meta-steps taken before this one.
        check_every: Meta-steps between two looks at the values, for each of which the host waits for the device.
        stop: The signal that this process got, if any.

    Returns:
        The verdict, the same on every process; where nobody looks, all is well.
    """
    if trainer.world_size == 1:
        return Verdict((step + 1) % check_every != 0 or bool(torch.isfinite(flatten(tensors)).all()), stop)
    watched = sum(tensor.numel() for tensor in tensors)
    flags = tensors[0].new_zeros(len(STOPS))
    if stop in STOPS:
        flags[STOPS.index(stop)] = 1
    parts = [*tensors, *unwatched, flags]
    flat = flatten(parts)
    torch.distributed.all_reduce(flat)  # not the strategy's own `reduce`, which makes a barrier of its own first
    flat /= trainer.world_size
    *means, flags = unflatten(flat, parts)
    for tensor, mean in zip([*tensors, *unwatched], means, strict=True):
        tensor.copy_(mean)
    if (step + 1) % min(check_every, _AGREE_EVERY):
        return Verdict(finite=True, stop=0)
    finite, *stops = torch.cat([torch.isfinite(flat[:watched]).all()[None], flags > 0]).tolist()
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
    """Refuses a precision or a strategy that meta-gradients can't be made with.

    Raises:
        ConfigError: Names it, and what to use.
    """
    problem = precision_problem(trainer.precision) or strategy_problem(type(trainer.strategy).__name__)
    if problem:
        raise ConfigError(problem)
