"""Dicts of named tensors: narrowed, split and laid out flat."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from meta_lightning.types import Params


def under(tensors: Mapping[str, Tensor], prefix: str) -> Params:
    """The entries below ``prefix``, named without it: ``under({"net.w": w, "rate": r}, "net.") == {"w": w}``."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def partition(params: Params, predicate: Callable[[str], bool]) -> tuple[Params, Params]:
    """Splits by name into those for which ``predicate`` holds, and the others."""
    chosen = {name: tensor for name, tensor in params.items() if predicate(name)}
    return chosen, {name: tensor for name, tensor in params.items() if name not in chosen}


def detach(params: Params) -> Params:
    """The same tensors outside of the graph (inside of a transform: outside of its innermost graph)."""
    return {name: tensor.detach() for name, tensor in params.items()}


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """One vector of all entries, in order; the tensors share a dtype and a device."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unflatten(flat: Tensor, like: Iterable[Tensor]) -> list[Tensor]:
    """Views into ``flat``, shaped as the tensors of ``like``: the inverse of `flatten`."""
    shapes = [tensor.shape for tensor in like]
    parts = torch.split(flat, [shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def dot(one: Params, other: Params) -> Tensor:
    """The sum of the products of all entries, a scalar; the names of ``one``, at least one, are taken."""
    return torch.stack([(tensor * other[name]).sum() for name, tensor in one.items()]).sum()


def tree(tensors: Mapping[str, Tensor]) -> nn.Module:
    """A bare module that holds tensors under dotted names, as a net does: no single module takes a name with a dot.

    Args:
        tensors: What to hold. Parameters are registered as parameters, other tensors as buffers.

    Returns:
        A module whose ``named_parameters()`` or ``named_buffers()`` give ``tensors`` back, if no two are one.
    """
    root = nn.Module()
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        owner = root
        for part in path:
            children = dict(owner.named_children())  # not `hasattr`: a layer may have the name of a method, `type`
            if part not in children:
                setattr(owner, part, children.setdefault(part, nn.Module()))
            owner = children[part]
        if isinstance(tensor, nn.Parameter):
            owner.register_parameter(leaf, tensor)
        else:
            owner.register_buffer(leaf, tensor)
    return root
