"""Which layer of a net an error of differentiation comes from."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_flatten, tree_map

from meta_lightning.functional.params import dot
from meta_lightning.types import Params


@contextmanager
def watch(net: nn.Module) -> Iterator[list[str]]:
    """While it is open, the list holds the names of the layers whose forward pass is under way, innermost last."""
    under_way: list[str] = []

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: under_way.append(name)

    def leave(*_: Any) -> None:
        under_way.pop()

    handles = []
    for name, module in net.named_modules():
        handles += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)]
    try:
        yield under_way
    finally:
        for handle in handles:
            handle.remove()


def without_derivative(net: nn.Module, x: Tensor, *, batched: bool) -> str | None:
    """The innermost layer that can't be differentiated twice.

    Args:
        net: The net.
        x: Inputs, ``[examples, *shape]``.
        batched: Whether to try under vmap.

    Returns:
        Its name, empty for the net itself; None if each layer can on its own.
    """
    calls: list[tuple[str, _Call]] = []  # in the order in which they end: inner layers before those around them
    handles = [
        module.register_forward_hook(
            lambda layer, args, options, _, name=name: calls.append((name, _Call(layer, args, options))),
            with_kwargs=True,
        )
        for name, module in net.named_modules()
    ]
    try:
        net(x)
    finally:
        for handle in handles:
            handle.remove()
    for name, call in calls:
        try:
            _twice(call, batched=batched)
        except RuntimeError:
            return name
    return None


class _Call(NamedTuple):
    layer: nn.Module
    args: tuple[Any, ...]
    options: dict[str, Any]


def _twice(call: _Call, *, batched: bool) -> None:
    """Takes the gradient of a layer's gradient, by its parameters and by its inputs."""
    parameters = {name: parameter.detach() for name, parameter in call.layer.named_parameters()}
    inputs = {i: x for i, x in enumerate(call.args) if isinstance(x, Tensor) and x.is_floating_point()}
    at: Params = {**parameters, **{f"input {i}": x.detach() for i, x in inputs.items()}}

    def size(at: Params) -> Tensor:
        args = tuple(at.get(f"input {i}", x) for i, x in enumerate(call.args))
        out = functional_call(call.layer, {name: at[name] for name in parameters}, args, call.options)
        (first, *_) = [leaf for leaf in tree_flatten(out)[0] if isinstance(leaf, Tensor)]
        return first.square().sum()

    def slope(at: Params) -> Tensor:
        once = grad(size)(at)
        return dot(once, once)

    twice = grad(slope)
    if batched:
        vmap(twice, randomness="different")(tree_map(lambda tensor: tensor[None], at))
    else:
        twice(at)
