"""From one task to a meta-batch: map a per-task function over tasks, and average its gradient."""

from __future__ import annotations  # the compiler can't trace a closure's annotations being made

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._pytree import tree_map

from meta_lightning.types import Params, Task


class Backend(NamedTuple):
    """How a function of one task is applied to many.

    Attributes:
        loop: ``vmap`` batches the tasks into one set of kernels. ``loop`` takes one task at a time: for layers
            without a batching rule, for memory, and for nets whose kernels fill the machine already.
        chunk: How many tasks vmap takes at once; None for all of them. One graph is alive at a time.
    """

    loop: Literal["vmap", "loop"] = "vmap"
    chunk: int | None = None


def count(tasks: Task) -> int:
    """The number of tasks in a meta-batch."""
    return tasks.index.shape[0]


def _chunks(tasks: Task, backend: Backend) -> Iterator[Task]:
    size = 1 if backend.loop == "loop" else backend.chunk or count(tasks)
    for start in range(0, count(tasks), size):
        yield tree_map(lambda tensor, rows=slice(start, start + size): tensor[rows], tasks)


def _over_chunk(function: Callable[[Task], Any], tasks: Task, backend: Backend) -> Any:
    """Maps over one chunk: outputs get a leading ``[tasks]`` dimension."""
    if backend.loop == "vmap":
        # Each task draws its own dropout mask, as it would alone.
        return vmap(function, randomness="different")(tasks)
    return tree_map(lambda out: out[None], function(tree_map(lambda tensor: tensor[0], tasks)))


def _concatenate(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else tree_map(lambda *tensors: torch.cat(tensors), *parts)


def map_tasks(function: Callable[[Task], Any], tasks: Task, backend: Backend) -> Any:
    """Applies a function of one task to each task of a meta-batch.

    Args:
        function: One task (no leading dimension) to a tensor or a tree of tensors.
        tasks: A meta-batch, ``[tasks, ...]``.
        backend: How.

    Returns:
        What ``function`` returns, each tensor with a leading ``[tasks]`` dimension.
    """
    outputs = [_over_chunk(function, chunk, backend) for chunk in _chunks(tasks, backend)]
    return _concatenate(outputs)


def mean_gradient(
    objective: Callable[[Params, Task], tuple[Tensor, Any]], params: Params, tasks: Task, backend: Backend
) -> tuple[Params, Any]:
    """The gradient of the mean over tasks of a per-task objective.

    The mean is differentiated inside each chunk, where parameters are still shared by all tasks, and chunks are summed
    as they come: no per-task copy of the gradient is made, and no graph outlives its chunk.

    Args:
        objective: ``(params, task) -> (scalar, auxiliary tree of tensors)``.
        params: Where to differentiate; detached, so that the results carry no graph.
        tasks: A meta-batch, ``[tasks, ...]``.
        backend: How to map over tasks.

    Returns:
        The gradient, and the auxiliary outputs with a leading ``[tasks]`` dimension.
    """

    def share(params: Params, chunk: Task) -> tuple[Tensor, Any]:
        values, aux = _over_chunk(lambda task: objective(params, task), chunk, backend)
        return values.sum() / count(tasks), aux

    total: Params = {}
    auxiliary = []
    for chunk in _chunks(tasks, backend):
        gradient, aux = grad(share, has_aux=True)(params, chunk)
        total = {name: total[name] + gradient[name] for name in total} if total else gradient
        auxiliary.append(aux)
    return total, _concatenate(auxiliary)
