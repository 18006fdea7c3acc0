"""A function that processes one task at a time under vmap, where plain kernels are faster than batched ones."""

from __future__ import annotations  # torch.compile can't trace the evaluation of a closure's annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from meta_lightning.types import Metrics, Params, Task


def one_task_at_a_time(
    measure: Callable[[Params, Task], tuple[Tensor, Metrics]], params: Params, task: Task
) -> tuple[Tensor, Metrics]:
    """Calls ``measure`` on one task after the other, where `torch.func.vmap` would batch the tasks.

    Each task has its own weights, so vmap turns a convolution into a grouped one, which is slow on a CPU for many
    examples. If the value is to be differentiated, the gradient of each task is computed at once, while the task's
    activations are in the cache; the activations are then released. The function must be called under vmap.

    Args:
        measure: ``(params, task) -> (value, metrics)``.
        params: Adapted parameters.
        task: One episode.

    Returns:
        The value and the metrics of ``measure``. Only a scalar value can be differentiated, once, with respect to
        ``params``; the metrics have no gradient.
    """
    leaves, spec = tree_flatten((params, task))
    names: list[str] = []

    def flat(*leaves: Tensor) -> list[Tensor]:
        value, metrics = measure(*tree_unflatten(leaves, spec))
        names[:] = metrics
        return [value, *metrics.values()]

    value, *metrics = _PerTask.apply(flat, len(params), *leaves)  # type: ignore[no-untyped-call]  # torch has no types for it
    return value, dict(zip(names, metrics, strict=True))


class _PerTask(torch.autograd.Function):
    """A function with a batching rule of its own. Autograd records the `_PrecomputedGradient` inside the rule."""

    @staticmethod
    def forward(*_: Any) -> Any:
        raise AssertionError("called outside of vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Saves nothing, because only the batching rule runs."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], flat: Callable[..., list[Tensor]], learned: int, *leaves: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Runs ``flat`` on each task, outside of vmap."""
        _, _, *dims = in_dims
        differentiated = torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves[:learned])
        rows, gradients = [], []
        for number in range(info.batch_size):
            inputs = [
                leaf.detach() if dim is None else leaf.detach().select(dim, number)
                for leaf, dim in zip(leaves, dims, strict=True)
            ]
            params = [leaf.requires_grad_(differentiated) for leaf in inputs[:learned]]
            value, *metrics = flat(*inputs)
            rows.append([value.detach(), *(metric.detach() for metric in metrics)])
            if differentiated:
                gradients.append(torch.autograd.grad(value, params, allow_unused=True, materialize_grads=True))
        values, *metrics = (torch.stack(column) for column in zip(*rows, strict=True))
        if differentiated:
            by_parameter = [torch.stack(parts) for parts in zip(*gradients, strict=True)]
            values = _PrecomputedGradient.apply(values, by_parameter, dims[:learned], *leaves[:learned])  # type: ignore[no-untyped-call]  # as above
        return (values, *metrics), (0,) * (1 + len(metrics))


class _PrecomputedGradient(torch.autograd.Function):
    """Values ``[tasks]`` whose gradients with respect to each task's parameters are known."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, gradients: list[Tensor], dims: Sequence[int | None], *_: Tensor) -> Tensor:
        """Returns the values and saves the gradients, ``[tasks, *shape]`` each."""
        ctx.save_for_backward(*gradients)
        ctx.dims = dims
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradient of each parameter in its own layout, summed over tasks if they share the parameter."""
        (weights,) = grads
        scaled = [torch.einsum("t,t...->t...", weights, gradient) for gradient in ctx.saved_tensors]
        return (
            None, None, None,
            *(g.sum(0) if dim is None else g.movedim(0, dim) for g, dim in zip(scaled, ctx.dims, strict=True)),
        )  # fmt: skip
