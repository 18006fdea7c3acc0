"""From one task to a meta-batch: map a per-task function over tasks, and average its gradient."""

from __future__ import annotations  # the compiler can't trace a closure's annotations being made

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._pytree import tree_map

from meta_lightning.types import Params, Task

Loop = Literal["vmap", "loop", "split"]


class Backend(NamedTuple):
    """How a function of one task is applied to many.

    Attributes:
        loop: ``vmap`` batches the tasks into one set of kernels. ``loop`` takes one task at a time: for layers
            without a batching rule, for memory, and for nets whose kernels fill the machine already. ``split`` adapts
            under vmap and measures the queries one task at a time (`apart`): for large query sets.
        chunk: How many tasks vmap takes at once; None for all of them. One graph is alive at a time.
    """

    loop: Loop = "vmap"
    chunk: int | None = None

    @property
    def batched(self) -> bool:
        """Whether layers run under vmap."""
        return self.loop != "loop"


def count(tasks: Task) -> int:
    """The number of tasks in a meta-batch."""
    return tasks.index.shape[0]


def _chunks(tasks: Task, backend: Backend) -> Iterator[Task]:
    size = (backend.chunk or count(tasks)) if backend.batched else 1
    if size >= count(tasks):
        yield tasks
        return
    for start in range(0, count(tasks), size):
        yield tree_map(lambda tensor, rows=slice(start, start + size): tensor[rows], tasks)


def _over_chunk(function: Callable[[Task], Any], tasks: Task, backend: Backend) -> Any:
    """Maps over one chunk: outputs get a leading ``[tasks]`` dimension."""
    if backend.batched:
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

    Args:
        objective: ``(params, task) -> (scalar, auxiliary tree of tensors)``.
        params: Where to differentiate; detached, so that the results carry no graph.
        tasks: A meta-batch, ``[tasks, ...]``.
        backend: How to map over tasks.

    Returns:
        The gradient, and the auxiliary outputs with a leading ``[tasks]`` dimension.
    """
    return mean_over_chunks(lambda chunk: chunk_gradient(objective, params, chunk, backend), tasks, backend)


def chunk_gradient(
    objective: Callable[[Params, Task], tuple[Tensor, Any]], params: Params, chunk: Task, backend: Backend
) -> tuple[Params, Any]:
    """`mean_gradient` of tasks that are taken at once.

    The mean is differentiated where parameters are still shared by all tasks: no per-task copy of the gradient is made,
    and the first forward pass of each task runs with one set of weights.
    """

    def mean(params: Params) -> tuple[Tensor, Any]:
        values, aux = _over_chunk(lambda task: objective(params, task), chunk, backend)
        return values.mean(), aux

    return _gradient(mean, params)


def mean_over_chunks(
    of_chunk: Callable[[Task], tuple[Params, Any]], tasks: Task, backend: Backend
) -> tuple[Params, Any]:
    """The mean over all tasks from the means of chunks, summed as they come: no graph outlives its chunk.

    Args:
        of_chunk: Tasks to the mean of their gradients, and to auxiliary outputs with a leading ``[tasks]`` dimension.
        tasks: A meta-batch, ``[tasks, ...]``.
        backend: Says how many tasks are taken at once.
    """
    total: Params = {}
    auxiliary = []
    for chunk in _chunks(tasks, backend):
        gradient, aux = of_chunk(chunk)
        torch.clear_autocast_cache()  # else each chunk leaves a copy of the weights in the lower precision
        auxiliary.append(aux)
        if chunk is tasks:
            return gradient, aux
        share = count(chunk) / count(tasks)
        for name, part in gradient.items():
            total[name] = total[name].add_(part, alpha=share) if name in total else part * share
    return total, _concatenate(auxiliary)


def _gradient(function: Callable[[Params], tuple[Tensor, Any]], params: Params) -> tuple[Params, Any]:
    """The gradient of a scalar in ``params``, and the auxiliary outputs, without a graph.

    Autograd itself does it, a level of transforms less than `torch.func.grad`: a quarter to a third less time for
    small nets. The compiler takes the transform alone, and there it costs nothing.
    """
    if torch.compiler.is_compiling():
        gradient, aux = grad(function, has_aux=True)(params)
        return gradient, aux
    with torch.enable_grad():
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
        value, aux = function(leaves)
        found = torch.autograd.grad(value, [*leaves.values()], allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True)), tree_map(torch.Tensor.detach, aux)
