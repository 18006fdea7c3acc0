"""How evaluation maps over tasks, chosen by the sizes of the tensors that it makes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from meta_lightning.functional import norm
from meta_lightning.functional.adapt import last
from meta_lightning.functional.inputs import count_examples, select
from meta_lightning.functional.tasks import Backend, Loop
from meta_lightning.types import Examples, Prediction, Task

CurveOf = Callable[[Task], Iterator[Prediction]]
"""Maps one task to its predictions after 0, 1, ... adaptation steps."""

# Larger tensors miss the processor's cache, and the allocator returns them to the operating system after each use.
_LARGEST_BYTES = 4 * 2**20
# From this size on, the kernels of one task cost more than the calls that start them.
_BUSY_BYTES = 256 * 2**10
# Two ways to compute the same differ by rounding, which batch norm over a few examples enlarges.
_ROUNDING = 1e-3


class EvaluationPlan(NamedTuple):
    """How to evaluate a module on tasks of one shape.

    Attributes:
        backend: How to map over tasks.
        side_by_side: How many queries ``support_plus_one`` predicts in one forward pass; None for the way of training.
    """

    backend: Backend
    side_by_side: int | None = None


def make_plan(
    curve_of: CurveOf,
    net: nn.Module,
    follow: Callable[[norm.Protocol], AbstractContextManager[None]],
    tasks: Task,
    backend: Backend,
) -> EvaluationPlan:
    """Chooses how to evaluate tasks on the CPU, so that buffers are small and are used again.

    Many tasks at once are slow there: their convolutions under vmap are grouped ones, and large buffers are new memory
    each time. The choice depends on sizes alone and not on times, so that a repeated test gives the same figures.

    Args:
        curve_of: Adapts to a task and predicts its queries.
        net: The net that predicts.
        follow: Sets the batch-norm protocol for a while.
        tasks: A meta-batch. Its first task is evaluated to find the sizes.
        backend: The backend of training. A ``loop`` stays one, because the net may have layers without a batching rule.
    """  # fmt: skip
    first: Task = tree_map(lambda leaf: leaf[0], tasks)
    with _LargestTensor() as adapting:
        adapted = last(curve_of(first))
    with _LargestTensor() as predicting, follow("transductive"):
        adapted()
    queries, group = count_examples(first.query.x), count_examples(first.support.x) + 1
    if backend.batched and predicting.bytes < _BUSY_BYTES:
        at_once = predicting.bytes * (group if norm.has_norm(net) else 1)
        return EvaluationPlan(_in_chunks("vmap", max(adapting.bytes, at_once), backend))
    chosen = _in_chunks("split", adapting.bytes, backend) if backend.batched else backend
    side_by_side = None
    if norm.has_norm(net) and queries > 1:
        with follow("support_plus_one"):
            if _treats_examples_alone(adapted, net):
                side_by_side = max(1, _LARGEST_BYTES * queries // max(1, predicting.bytes * group))
    return EvaluationPlan(chosen, side_by_side)


def _in_chunks(loop: Loop, bytes_per_task: int, backend: Backend) -> Backend:
    chunk = max(1, _LARGEST_BYTES // max(1, bytes_per_task))
    chunk = min(chunk, backend.chunk or chunk)
    return Backend(loop, chunk) if chunk > 1 else Backend("loop")


def _treats_examples_alone(adapted: Prediction, net: nn.Module) -> bool:
    """Whether queries predicted side by side are what they are one by one: examples meet in batch norm alone."""
    task = adapted.task
    two = task._replace(query=Examples(select(task.query.x, slice(2)), None))

    def predict(at_once: int | None) -> Tensor:
        with norm.side_by_side(net, at_once):
            return adapted.predict(adapted.params, two)

    one_by_one = predict(None)
    try:
        together = predict(2)
    except RuntimeError:  # a layer whose rows are no examples
        return False
    return torch.allclose(one_by_one, together, _ROUNDING, _ROUNDING, equal_nan=True)


class _LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types for it
    """Notes the size of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation."""
        outputs = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, Tensor):  # a view may be larger than its memory, or a part of it
                size = min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
                self.bytes = max(self.bytes, size)
        return outputs
