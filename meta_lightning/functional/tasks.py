"""Maps a function of one task over a meta-batch, and averages its gradient over the tasks."""

from __future__ import annotations  # torch.compile can't trace the evaluation of a closure's annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from meta_lightning.types import Params, Task

Loop = Literal["vmap", "loop", "split"]


class Backend(NamedTuple):
    """How a function of one task is applied to many.

    Attributes:
        loop: ``vmap`` batches the tasks into one set of kernels. ``loop`` takes one task at a time; it suits layers
            without a batching rule, little memory, and nets whose kernels already keep the device busy. ``split``
            adapts under vmap and measures the queries one task at a time (`one_task_at_a_time`); it suits large query
            sets.
        chunk: The number of tasks that vmap takes at once; None for all tasks. Only one chunk's graph exists at a time.

    Example:
        >>> Backend("vmap", chunk=4).batched
        True
        >>> Backend("loop").batched
        False
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
    leaves, spec = tree_flatten(tasks)
    parts = [itertools.repeat(None) if leaf is None else leaf.split(size) for leaf in leaves]
    for chunk in zip(*parts, strict=False):  # not strict: the `repeat` of a missing target has no end
        yield tree_unflatten(chunk, spec)


def _over_chunk(function: Callable[[Task], Any], tasks: Task, backend: Backend) -> Any:
    """Applies a function to each task of a chunk. Outputs have a leading ``[tasks]`` dimension."""
    if backend.batched:
        has_targets = tasks.query.y is not None
        in_dims = 0 if has_targets else (tree_map(lambda leaf: None if leaf is None else 0, tasks),)
        # "different" gives each task its own dropout mask, as in a loop over tasks.
        return vmap(function, in_dims, randomness="different")(tasks)
    single = tree_map(lambda leaf: None if leaf is None else leaf[0], tasks)
    return tree_map(lambda out: out[None], function(single))


def _concatenate(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else tree_map(lambda *tensors: torch.cat(tensors), *parts)


def map_tasks(function: Callable[[Task], Any], tasks: Task, backend: Backend) -> Any:
    """Applies a function of one task to each task of a meta-batch.

    Args:
        function: Maps one task (no leading dimension) to a tensor or a tree of tensors.
        tasks: A meta-batch, ``[tasks, ...]``.
        backend: How to map over tasks.

    Returns:
        The results of ``function``, each tensor with a leading ``[tasks]`` dimension.

    Example:
        >>> from meta_lightning.types import Examples
        >>> data = Examples(torch.arange(6.0).view(3, 2, 1), torch.zeros(3, 2, 1))
        >>> tasks = Task(data, data, index=torch.arange(3), key=torch.arange(3))
        >>> map_tasks(lambda task: task.query.x.mean(), tasks, Backend("vmap"))
        tensor([0.5000, 2.5000, 4.5000])
    """
    outputs = [_over_chunk(function, chunk, backend) for chunk in _chunks(tasks, backend)]
    return _concatenate(outputs)


def mean_gradient(
    objective: Callable[[Params, Task], tuple[Tensor, Any]], params: Params, tasks: Task, backend: Backend
) -> tuple[Params, Any]:
    """The gradient of a per-task objective, averaged over tasks.

    Args:
        objective: ``(params, task) -> (scalar, auxiliary tree of tensors)``.
        params: The parameters to differentiate with respect to. They are detached, so the results carry no graph.
        tasks: A meta-batch, ``[tasks, ...]``.
        backend: How to map over tasks.

    Returns:
        The gradient, and the auxiliary outputs with a leading ``[tasks]`` dimension.

    Example:
        >>> from meta_lightning.types import Examples
        >>> data = Examples(torch.arange(6.0).view(3, 2, 1), torch.zeros(3, 2, 1))
        >>> tasks = Task(data, data, index=torch.arange(3), key=torch.arange(3))
        >>> def objective(params, task):
        ...     mean = task.query.x.mean()
        ...     return (params["w"] - mean) ** 2, {"mean": mean}
        >>> mean_gradient(objective, {"w": torch.tensor(0.0)}, tasks, Backend("vmap"))
        ({'w': tensor(-5.)}, {'mean': tensor([0.5000, 2.5000, 4.5000])})
    """
    return mean_over_chunks(lambda chunk: chunk_gradient(objective, params, chunk, backend), tasks, backend)


def chunk_gradient(
    objective: Callable[[Params, Task], tuple[Tensor, Any]], params: Params, chunk: Task, backend: Backend
) -> tuple[Params, Any]:
    """Computes `mean_gradient` over the tasks of a single chunk.

    The mean is differentiated with respect to parameters that all tasks share. The gradient is therefore not copied for
    each task, and the first forward pass of all tasks uses one set of weights.
    """

    def mean(params: Params) -> tuple[Tensor, Any]:
        values, aux = _over_chunk(lambda task: objective(params, task), chunk, backend)
        return values.mean(), aux

    return _gradient(mean, params)


def mean_over_chunks(
    gradient_of_chunk: Callable[[Task], tuple[Params, Any]], tasks: Task, backend: Backend
) -> tuple[Params, Any]:
    """The mean gradient over all tasks, accumulated chunk by chunk. No graph outlives its chunk.

    Args:
        gradient_of_chunk: Maps a chunk of tasks to the mean of their gradients and to auxiliary outputs with a leading
            ``[tasks]`` dimension.
        tasks: A meta-batch, ``[tasks, ...]``.
        backend: Sets the size of a chunk.

    Returns:
        The gradient, and the auxiliary outputs with a leading ``[tasks]`` dimension.
    """
    total: Params = {}
    auxiliary = []
    for chunk in _chunks(tasks, backend):
        gradient, aux = gradient_of_chunk(chunk)
        torch.clear_autocast_cache()  # the cache would keep a low-precision copy of the weights for each chunk
        auxiliary.append(aux)
        if chunk is tasks:
            return gradient, aux
        share = count(chunk) / count(tasks)
        for name, part in gradient.items():
            total[name] = total[name].add_(part, alpha=share) if name in total else part * share
    return total, _concatenate(auxiliary)


def _gradient(function: Callable[[Params], tuple[Tensor, Any]], params: Params) -> tuple[Params, Any]:
    """The gradient of a scalar with respect to ``params``, and the auxiliary outputs, without a graph.

    Plain autograd saves one level of transforms against `torch.func.grad`, which is a quarter to a third of the time
    for small nets. torch.compile supports only the transform, which costs nothing once it is compiled.
    """
    if torch.compiler.is_compiling():
        gradient, aux = grad(function, has_aux=True)(params)
        return gradient, aux
    with torch.enable_grad():
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
        value, aux = function(leaves)
        grads = torch.autograd.grad(value, [*leaves.values()], allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, grads, strict=True)), tree_map(torch.Tensor.detach, aux)
