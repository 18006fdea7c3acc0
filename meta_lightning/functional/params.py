"""Operations on dicts of named tensors: selection, splitting and flattening."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from meta_lightning.types import Params


def strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> Params:
    """The entries whose names start with ``prefix``, under their names without it.

    Example:
        >>> strip_prefix({"net.w": torch.tensor(1), "rate": torch.tensor(2)}, "net.")
        {'w': tensor(1)}
    """
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def partition(params: Params, predicate: Callable[[str], bool]) -> tuple[Params, Params]:
    """Splits parameters by name: those for which ``predicate`` is true, and the rest."""
    chosen = {name: tensor for name, tensor in params.items() if predicate(name)}
    return chosen, {name: tensor for name, tensor in params.items() if name not in chosen}


def detach(params: Params) -> Params:
    """The same tensors without their graph; under a `torch.func` transform, without the innermost graph."""
    return {name: tensor.detach() for name, tensor in params.items()}


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """Concatenates the entries of all tensors, of one dtype and device, into a vector ``[entries]``."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unflatten(flat: Tensor, like: Iterable[Tensor]) -> list[Tensor]:
    """Views of ``flat`` in the shapes of the tensors of ``like``; the inverse of `flatten`."""
    shapes = [tensor.shape for tensor in like]
    parts = torch.split(flat, [shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def dot(left: Params, right: Params) -> Tensor:
    """The inner product over all entries, a scalar. It runs over the names of ``left``, which must not be empty."""
    return torch.stack([(tensor * right[name]).sum() for name, tensor in left.items()]).sum()


def as_module(tensors: Mapping[str, Tensor]) -> nn.Module:
    """Builds an empty module that holds tensors under dotted names, as a net does.

    A module rejects a name with a dot, so each part of a name but the last becomes a submodule.

    Args:
        tensors: The tensors by dotted name. Parameters are registered as parameters, other tensors as buffers.

    Returns:
        A module whose ``named_parameters()`` and ``named_buffers()`` return ``tensors``, provided that no tensor occurs
        under two names.
    """
    root = nn.Module()
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        owner = root
        for part in path:
            children = dict(owner.named_children())  # `hasattr` also finds methods: a layer may be named `type`
            if part not in children:
                setattr(owner, part, children.setdefault(part, nn.Module()))
            owner = children[part]
        if isinstance(tensor, nn.Parameter):
            owner.register_parameter(leaf, tensor)
        else:
            owner.register_buffer(leaf, tensor)
    return root
