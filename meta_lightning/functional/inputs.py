"""Inputs of a net, one tensor or a dict of them, handled alike."""

from __future__ import annotations  # the compiler can't trace a closure's annotations being made

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from meta_lightning.types import Examples, Inputs, Params


def call(net: nn.Module, params: Params, x: Inputs) -> Tensor:
    """The outputs of a net with these parameters.

    Args:
        net: Any module.
        params: Its parameters, named as in ``named_parameters()``; those left out are the net's own.
        x: ``[examples, *shape]``; a dict is passed as keyword arguments.

    Returns:
        The outputs, ``[examples, ...]``.

    Example:
        >>> call(nn.Linear(1, 1), {"weight": torch.tensor([[2.0]]), "bias": torch.tensor([1.0])}, torch.tensor([[3.0]]))
        tensor([[7.]])
    """
    args, options = ((), x) if isinstance(x, dict) else ((x,), {})
    return cast(Tensor, functional_call(net, by_layer(net, params), args, options, tie_weights=False))


def by_layer(net: nn.Module, params: Params) -> Params:
    """Names each parameter once for every layer that holds it.

    A parameter that two layers share has one name in ``named_parameters()`` but must be replaced in both. A layer that
    a net holds under two names must be replaced once: `functional_call` with ``tie_weights`` replaces it twice, and
    then puts the replacement back where the layer's own parameter was.

    Args:
        net: Any module.
        params: Tensors, named as in ``named_parameters()`` or ``named_buffers()``.
    """
    first_names: dict[Tensor, str] = {}
    named = {}
    for prefix, layer in net.named_modules():  # each layer once
        for tensors in (layer._parameters, layer._buffers):
            for own_name, tensor in tensors.items():
                if tensor is not None:
                    name = f"{prefix}.{own_name}" if prefix else own_name
                    first = first_names.setdefault(tensor, name)
                    if first in params:
                        named[name] = params[first]
    return named


@contextmanager
def replaced(module: nn.Module, params: Params) -> Iterator[None]:
    """Replaces parameters of a module while the context lasts.

    Args:
        module: Any module.
        params: Its parameters, named as in ``named_parameters()``; those left out stay.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> with replaced(layer, {"weight": torch.tensor([[2.0]])}):
        ...     layer(torch.tensor([[3.0]]))
        tensor([[6.]])
    """
    own = []
    for name, tensor in by_layer(module, params).items():
        prefix, _, attribute = name.rpartition(".")
        held = module.get_submodule(prefix)._parameters
        own.append((held, attribute, held[attribute]))
        held[attribute] = cast(nn.Parameter, tensor)
    try:
        yield
    finally:
        for held, attribute, parameter in own:
            held[attribute] = parameter


def count_examples(x: Inputs) -> int:
    """The number of examples of one task.

    Example:
        >>> count_examples({"ids": torch.zeros(3, 7), "mask": torch.ones(3, 7)})
        3
    """
    return len(next(iter(x.values())) if isinstance(x, dict) else x)


def concatenate(first: Inputs, second: Inputs) -> Inputs:
    """The examples of both, in order."""
    if isinstance(first, dict) and isinstance(second, dict):
        return {name: torch.cat([tensor, second[name]]) for name, tensor in first.items()}
    return torch.cat([cast(Tensor, first), cast(Tensor, second)])


def select(x: Inputs, rows: Tensor | slice) -> Inputs:
    """Some of the examples."""
    if isinstance(x, dict):
        return {name: tensor[rows] for name, tensor in x.items()}
    return x[rows]


def select_examples(examples: Examples, rows: Tensor) -> Examples:
    """Some of the examples, with their targets."""
    return Examples(select(examples.x, rows), examples.y[rows])


class Summary(NamedTuple):
    """What inputs look like, as plain data.

    Attributes:
        shape: The shape of an example.
        dtype: The type of its numbers, such as ``float32``.
        mean: The mean of all numbers.
        deviation: Their standard deviation.
        spread: The standard deviation of the examples' means.
        low: The smallest number.
        high: The largest number.

    Example:
        >>> pictures = Summary.of(torch.rand(9, 1, 8, 8).round())
        >>> pictures.problem(Summary.of(1 - torch.rand(9, 1, 8, 8).round())) is None
        True
        >>> pictures.problem(Summary.of(255 * torch.rand(9, 1, 8, 8)))
        'mean 127.88 and deviation 74.78, where those had 0.49 and 0.50'
    """

    shape: list[int]
    dtype: str
    mean: float
    deviation: float
    spread: float
    low: float
    high: float

    @classmethod
    def of(cls, x: Tensor) -> Summary:
        """The summary of examples, ``[examples, *shape]``."""
        numbers = x.double().flatten(1)
        means = numbers.mean(1)
        return cls(
            [*x.shape[1:]], str(x.dtype).removeprefix("torch."), float(means.mean()), float(numbers.std(correction=0)),
            float(means.std(correction=0)), float(numbers.min()), float(numbers.max()),
        )  # fmt: skip

    def problem(self, other: Summary) -> str | None:
        """How other inputs differ from these by far, in their mean or their range; None if they do not.

        A mean differs if it is farther away than the numbers deviate, and than three times as far as those of single
        examples do; a range if it is more than four times as wide or as narrow.
        """
        if "float" not in self.dtype or self.deviation == 0:
            return None
        is_far = abs(other.mean - self.mean) > max(self.deviation, 3 * self.spread)
        if not is_far and 0.25 <= other.deviation / self.deviation <= 4:
            return None
        theirs = f"mean {other.mean:.2f} and deviation {other.deviation:.2f}"
        return f"{theirs}, where those had {self.mean:.2f} and {self.deviation:.2f}"


def summaries(x: Inputs) -> dict[str, Summary]:
    """The summary of each part of inputs, ``[examples, *shape]``; the only part of a tensor has no name."""
    parts = x if isinstance(x, dict) else {"": x}
    return {name: Summary.of(tensor) for name, tensor in parts.items()}
