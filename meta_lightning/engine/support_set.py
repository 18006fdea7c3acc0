"""A user's support set, checked and brought into the form that methods adapt to."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from meta_lightning.console import printable
from meta_lightning.engine.adapted import ClassName, place_like
from meta_lightning.errors import ConfigError
from meta_lightning.types import Examples, Inputs


def ready_support(
    net: nn.Module, x: Any, y: Any, class_names: Sequence[ClassName] | None = None
) -> tuple[Examples, tuple[ClassName, ...]]:
    """A support set on a net's device, with labels 0, 1, ... for its classes.

    Args:
        net: The net.
        x: Inputs, ``[examples, *shape]``: a tensor, an array or a dict of them.
        y: Targets. Floats are values of a regression. Integers and words are classes.
        class_names: The names of the classes 0, 1, ..., whose numbers ``y`` then holds; None for the entries of ``y``
            themselves, in sorted order.

    Returns:
        The examples, and the names of the classes in the order of their labels; no names for a regression.

    Raises:
        ConfigError: If inputs and targets do not belong together, or there is only one class.

    Example:
        >>> support, names = ready_support(nn.Linear(1, 2), torch.zeros(3, 1), ["cat", "dog", "cat"])
        >>> support.y, names
        (tensor([0, 1, 0]), ('cat', 'dog'))
    """
    inputs: Inputs = tree_map(torch.as_tensor, dict(x) if isinstance(x, dict) else x)
    counts = {len(tensor) if tensor.ndim else 0 for tensor in tree_leaves(inputs)}
    if len(counts) != 1 or counts == {0}:
        raise ConfigError(f"the support set has inputs of {sorted(counts)} examples; expected equally many, 1 or more")
    (count,) = counts
    labels, names = _targets(y, class_names)
    if len(labels) != count:
        raise ConfigError(f"the support set has {count} inputs and {len(labels)} targets; expected one target for each")
    floats = [tensor for tensor in [*tree_leaves(inputs), labels] if tensor.is_floating_point()]
    if not all(bool(tensor.isfinite().all()) for tensor in floats):
        raise ConfigError(
            "the support set holds NaN or infinite numbers; expected finite ones: fill in what is missing"
        )
    with torch.inference_mode(mode=False):  # of tensors that were made in inference mode, copies that can be used later
        own: Examples = tree_map(lambda tensor: tensor.detach().clone(), Examples(inputs, labels))
        return Examples(place_like(own.x, net), place_like(own.y, net)), names


def _targets(y: Any, class_names: Sequence[ClassName] | None) -> tuple[Tensor, tuple[ClassName, ...]]:
    given = y if isinstance(y, Tensor) else None if _has_words(y) else torch.as_tensor(y)
    if given is not None and given.is_floating_point():
        if class_names is not None:
            raise ConfigError("class_names are given, but the targets are floats; expected integers that count classes")
        return given[:, None] if given.ndim == 1 else given, ()
    entries: list[Any] = [*y] if given is None else given.tolist()
    if given is not None and given.ndim != 1:
        raise ConfigError(
            f"the support set's classes have the shape {list(given.shape)}; expected one for each example"
        )
    if class_names is not None:
        labels, names = torch.tensor(entries if given is not None else [-1]), (*class_names,)
        if len({*names}) < len(names) or sorted({*labels.tolist()}) != [*range(len(names))]:
            raise ConfigError(
                f"class_names are {printable([*names])}; expected distinct names, one for each of the numbers 0, 1, "
                "... in the targets"
            )
    else:
        names = (*in_order({*entries}),)
        numbers = {name: number for number, name in enumerate(names)}
        labels = torch.tensor([numbers[entry] for entry in entries])
    if len(names) < 2:
        raise ConfigError(
            f"the support set has one class ({printable(names[0])}); expected examples of 2 classes or more, since a "
            "classifier tells classes apart"
        )
    return labels, tuple(int(name) if isinstance(name, bool) else name for name in names)


def in_order(names: set[Any]) -> list[Any]:
    """Names of classes in sorted order; numbers come before words.

    Example:
        >>> in_order({10, 9, "a"})
        [9, 10, 'a']
    """
    return sorted(names, key=lambda name: (isinstance(name, str), name))


def _has_words(y: Any) -> bool:
    return any(isinstance(entry, str) for entry in y)
