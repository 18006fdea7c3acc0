"""Under vmap, one task at a time: the way out of batched kernels where plain ones are faster."""

from __future__ import annotations  # the compiler can't trace a closure's annotations being made

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from meta_lightning.types import Metrics, Params, Task


def apart(
    measure: Callable[[Params, Task], tuple[Tensor, Metrics]], params: Params, task: Task
) -> tuple[Tensor, Metrics]:
    """What ``measure`` finds, with its tasks taken one by one where `torch.func.vmap` would batch them.

    With weights of its own in each task, a convolution under vmap is a grouped one, which is slow on a CPU once there
    are many examples. Where the value is to be differentiated, that is done at once, while a task's activations are in
    the cache; they are then forgotten and the gradient is kept. Must be called under vmap.

    Args:
        measure: ``(params, task) -> (value, metrics)``.
        params: Adapted parameters.
        task: One episode.

    Returns:
        The value, which has a first derivative by ``params`` if it is a scalar, and the metrics, which have none.
    """
    leaves, spec = tree_flatten((params, task))
    names: list[str] = []

    def flat(*leaves: Tensor) -> list[Tensor]:
        value, metrics = measure(*tree_unflatten(leaves, spec))
        names[:] = metrics
        return [value, *metrics.values()]

    value, *metrics = _Apart.apply(flat, len(params), *leaves)  # type: ignore[no-untyped-call]  # torch's is not typed
    return value, dict(zip(names, metrics, strict=True))


class _Apart(torch.autograd.Function):
    """A function with a batching rule of its own, which autograd looks through: what it records is `_Known`."""

    @staticmethod
    def forward(*_: Any) -> Any:
        raise AssertionError("called outside of vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing: there is no forward pass."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], flat: Callable[..., list[Tensor]], learned: int, *leaves: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """The tasks one by one, below vmap."""
        _, _, *dims = in_dims
        differentiated = torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves[:learned])
        rows, gradients = [], []
        for number in range(info.batch_size):
            own = [
                leaf.detach() if dim is None else leaf.detach().select(dim, number)
                for leaf, dim in zip(leaves, dims, strict=True)
            ]
            wanted = [leaf.requires_grad_(differentiated) for leaf in own[:learned]]
            value, *others = flat(*own)
            rows.append([value.detach(), *(other.detach() for other in others)])
            if differentiated:
                gradients.append(torch.autograd.grad(value, wanted, allow_unused=True, materialize_grads=True))
        values, *others = (torch.stack(column) for column in zip(*rows, strict=True))
        if differentiated:
            by_parameter = [torch.stack(parts) for parts in zip(*gradients, strict=True)]
            values = _Known.apply(values, by_parameter, dims[:learned], *leaves[:learned])  # type: ignore[no-untyped-call]  # as above
        return (values, *others), (0,) * (1 + len(others))


class _Known(torch.autograd.Function):
    """Values ``[tasks]`` whose gradient by each task's parameters is known."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, gradients: list[Tensor], dims: Sequence[int | None], *_: Tensor) -> Tensor:
        """The values; keeps the gradients, ``[tasks, *shape]`` each."""
        ctx.save_for_backward(*gradients)
        ctx.dims = dims
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Each parameter's gradient, with tasks where its own dimension for them is; summed where tasks share it."""
        (weights,) = grads
        scaled = [torch.einsum("t,t...->t...", weights, gradient) for gradient in ctx.saved_tensors]
        return (
            None, None, None,
            *(g.sum(0) if dim is None else g.movedim(0, dim) for g, dim in zip(scaled, ctx.dims, strict=True)),
        )  # fmt: skip
