"""The workloads that are timed: a net, a meta-batch and an inner loop, identical for every library."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import nn

from meta_lightning.nets import MLP, Conv4
from meta_lightning.types import Examples, Task


class Work(NamedTuple):
    """One meta-step of second-order MAML.

    Attributes:
        title: The title in tables.
        net: Builds the net.
        tasks: The number of tasks in a meta-batch.
        shots: Support examples of a task, per class if there are classes.
        queries: Query examples of a task, per class if there are classes.
        inner_lr: The inner learning rate.
        inner_steps: The number of adaptation steps.
        ways: Classes of a task; None for regression.
        dtype: The dtype of the weights and inputs.
        device: The device of the weights and inputs.
    """

    title: str
    net: Callable[[], nn.Module]
    tasks: int
    shots: int
    queries: int
    inner_lr: float
    inner_steps: int
    ways: int | None = None
    dtype: torch.dtype = torch.float32
    device: str = "cpu"


def _sinusoid_net() -> nn.Module:
    return MLP(1, 1, hidden=[40, 40])


def _omniglot_net() -> nn.Module:
    return Conv4(5, in_channels=1, width=64, downsample="stride")


WORKS = {
    "sinusoid": Work("sinusoid MLP 40-40, 25 tasks, 10-shot, 1 step", _sinusoid_net, 25, 10, 10, 0.01, 1),
    "sinusoid_5_steps": Work("sinusoid MLP 40-40, 100 tasks, 10-shot, 5 steps", _sinusoid_net, 100, 10, 10, 0.01, 5),
    "omniglot": Work("Omniglot conv4-64, 32 tasks, 5w1s, 1 query a class", _omniglot_net, 32, 1, 1, 0.4, 1, 5),
    "omniglot_15_queries": Work(
        "Omniglot conv4-64, 32 tasks, 5w1s, 15 queries a class", _omniglot_net, 32, 1, 15, 0.4, 1, 5
    ),
}


def make_tasks(work: Work) -> Task:
    """Makes a meta-batch of noise in the shapes of the workload. The content does not affect the time."""
    generator = torch.Generator().manual_seed(0)

    def examples(number: int) -> Examples:
        if work.ways is None:
            x = 10 * torch.rand(work.tasks, number, 1, generator=generator, dtype=work.dtype) - 5
            return Examples(x, torch.sin(x))
        x = torch.rand(work.tasks, number * work.ways, 1, 28, 28, generator=generator, dtype=work.dtype)
        return Examples(x, torch.arange(work.ways).repeat_interleave(number).expand(work.tasks, -1).contiguous())

    tasks = Task(examples(work.shots), examples(work.queries), *[torch.arange(work.tasks)] * 2)
    moved: Task = move_data_to_device(tasks, torch.device(work.device))
    return moved


def make_net(work: Work) -> nn.Module:
    """Builds the net, with the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return work.net().to(work.device, work.dtype)
