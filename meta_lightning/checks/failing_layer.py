"""Finds the layer of a net that an error during differentiation comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_flatten, tree_map

from meta_lightning.functional.inputs import by_layer
from meta_lightning.functional.params import dot
from meta_lightning.types import Params

_STEP = 1e-6  # of central differences in double precision


@contextmanager
def watch(net: nn.Module) -> Iterator[list[str]]:
    """Tracks which layers are running, so that after an error the list still names them.

    Args:
        net: The net.

    Yields:
        The names of the layers whose forward pass has begun and not ended, the innermost last.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2))
        >>> with watch(net) as running:
        ...     try:
        ...         net(torch.zeros(1, 3))
        ...     except RuntimeError:
        ...         print(running)
        ['', '0']
    """
    running: list[str] = []

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: running.append(name)

    def leave(*_: Any) -> None:
        running.pop()

    handles = []
    for name, module in net.named_modules():
        handles += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)]
    try:
        yield running
    finally:
        for handle in handles:
            handle.remove()


def without_derivative(net: nn.Module, run: Callable[[], object], *, batched: bool) -> str | None:
    """Finds the innermost layer that can't be differentiated twice.

    Args:
        net: The net.
        run: Calls the net.
        batched: Whether to differentiate under vmap.

    Returns:
        The layer's name, which is empty for the net itself; None if each layer by itself can be differentiated twice.
    """
    for name, call in _calls(net, run):
        try:
            _differentiate_twice(call, batched=batched)
        except RuntimeError:
            return name
    return None


def wrong_derivative(net: nn.Module, run: Callable[[], object], *, batched: bool, twice: bool) -> str | None:
    """The innermost layer whose derivative disagrees with finite differences.

    Args:
        net: The net, in double precision.
        run: Calls the net.
        batched: Whether to differentiate under vmap.
        twice: Whether to compare second derivatives too.

    Returns:
        The layer's name, empty for the net itself; None if each layer is right on its own.
    """
    for name, call in _calls(net, run):
        try:
            if not agrees_with_differences(*call, batched=batched, twice=twice):
                return name
        except (RuntimeError, ValueError):  # it can't be called on its own
            continue
    return None


def _calls(net: nn.Module, run: Callable[[], object]) -> list[tuple[str, _Call]]:
    """The calls of layers in the order in which they end: inner layers before those around them."""
    calls: list[tuple[str, _Call]] = []
    handles = [
        module.register_forward_hook(
            lambda layer, args, options, _, name=name: calls.append((name, _Call(layer, args, options))),
            with_kwargs=True,
        )
        for name, module in net.named_modules()
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return calls


class _Call(NamedTuple):
    layer: nn.Module
    args: tuple[Any, ...]
    options: dict[str, Any]


_Scalar = Callable[[Params], Tensor]


def _as_function(call: _Call) -> tuple[_Scalar, Params]:
    """A scalar function of a layer's parameters and inputs, and the point at which the layer was called."""
    parameters = {name: parameter.detach() for name, parameter in call.layer.named_parameters()}
    inputs = {i: x for i, x in enumerate(call.args) if isinstance(x, Tensor) and x.is_floating_point()}
    point: Params = {**parameters, **{f"input {i}": x.detach() for i, x in inputs.items()}}

    def function(point: Params) -> Tensor:
        args = tuple(point.get(f"input {i}", x) for i, x in enumerate(call.args))
        own = by_layer(call.layer, {name: point[name] for name in parameters})
        out = functional_call(call.layer, own, args, call.options, tie_weights=False)
        (first, *_) = [leaf for leaf in tree_flatten(out)[0] if isinstance(leaf, Tensor)]
        weights = torch.linspace(0.5, 1.5, first.numel(), dtype=first.dtype, device=first.device)
        return (torch.tanh(first).reshape(-1) * weights).sum()

    return function, point


def _differentiate_twice(call: _Call, *, batched: bool) -> None:
    """Takes the gradient of a layer's gradient, by its parameters and by its inputs."""
    function, point = _as_function(call)

    def squared_gradient_norm(point: Params) -> Tensor:
        gradient = grad(function)(point)
        return dot(gradient, gradient)

    second_derivative = grad(squared_gradient_norm)
    if batched:
        vmap(second_derivative, randomness="different")(tree_map(lambda tensor: tensor[None], point))
    else:
        second_derivative(point)


def agrees_with_differences(
    layer: nn.Module,
    args: tuple[Any, ...],
    options: dict[str, Any] | None = None,
    *,
    batched: bool = False,
    twice: bool = True,
) -> bool:
    """Whether the derivatives of one call of a layer agree with central differences in random directions.

    Args:
        layer: The layer, in double precision.
        args: Its positional arguments.
        options: Its keyword arguments.
        batched: Differentiate under vmap at three points at once.
        twice: Compare second derivatives too.

    Example:
        >>> agrees_with_differences(nn.Linear(2, 3).double(), (torch.rand(4, 2).double(),), batched=True)
        True
    """
    function, point = _as_function(_Call(layer, args, options or {}))
    generator = torch.Generator().manual_seed(0)

    def direction(like: Params) -> Params:
        """Random, but zero where there is no gradient: what is held fixed on purpose has none."""
        return {
            name: torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device) * (tensor != 0)
            for name, tensor in like.items()
        }

    steps = [direction(point) for _ in range(2 * batched)]
    points = [point, *({name: tensor + 0.01 * step[name] for name, tensor in point.items()} for step in steps)]
    along = direction(grad(function)(point))
    functions: list[_Scalar] = [function, lambda point: dot(grad(function)(point), along)]
    return all(_agrees(each, points, direction, batched=batched) for each in functions[: 1 + twice])


def _agrees(function: _Scalar, points: list[Params], direction: Callable[[Params], Params], *, batched: bool) -> bool:
    if batched:
        # As in a meta-step, the derivative is taken of what vmap computes.
        stacked = {name: torch.stack([point[name] for point in points]).requires_grad_() for name in points[0]}
        total = vmap(function, randomness="different")(stacked).sum()
        at_once = dict(
            zip(stacked, torch.autograd.grad(total, [*stacked.values()], materialize_grads=True), strict=True)
        )
        gradients = [{name: tensor[number] for name, tensor in at_once.items()} for number in range(len(points))]
    else:
        gradients = [grad(function)(point) for point in points]
    for point, gradient in zip(points, gradients, strict=True):
        along = direction(gradient)
        slope = float(dot(gradient, along))
        ahead, behind = (
            float(function({name: tensor + sign * _STEP * along[name] for name, tensor in point.items()}))
            for sign in (1, -1)
        )
        difference = (ahead - behind) / (2 * _STEP)
        rounding = 1e-14 * (abs(ahead) + abs(behind)) / _STEP
        if not abs(slope - difference) <= 1e-5 * max(abs(slope), abs(difference)) + rounding:  # nan too
            return False
    return True
