"""Batch normalisation as a stated protocol: which examples the statistics of a prediction come from.

In few-shot learning a batch *is* the task, so what batch normalisation computes over decides what is compared:

* ``transductive``: the query set's own statistics, as the MAML paper. All queries of a task are seen at once; where one
  forward pass takes the support set too (`predict_jointly`), it is seen with them.
* ``inductive``: the support set's statistics; a prediction never depends on another query.
* ``support_plus_one``: the support set and one query per forward pass, Reptile's "not transductive".

Running statistics play no part: they mix tasks.
"""

from __future__ import annotations  # the compiler can't trace a closure's annotations being made

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from meta_lightning.types import Params

Protocol = Literal["transductive", "inductive", "support_plus_one"]


class EpisodeNorm(nn.Module):
    """Batch normalisation with the statistics of the forward pass at hand, or of its first rows only.

    Args:
        norm: The layer to take weight, bias and epsilon from.

    Attributes:
        rows: Of how many rows, from the first, the statistics are taken; None for all.
        fused: Scale and offset inside of the kernel: fewer passes over memory, but never for second derivatives under
            vmap, which would be wrong.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight = norm.weight
        self.bias = norm.bias
        self.rows: int | None = None
        self.fused = False

    def forward(self, x: Tensor) -> Tensor:
        """Normalises ``x`` ``[examples, channels, ...]`` per channel."""
        if self.rows is None and self.fused:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        if self.rows is None:
            normal = F.batch_norm(x, None, None, training=True, eps=self.eps)
        else:
            # Spelt out: `F.batch_norm` passes no gradient to statistics that are given to it.
            var, mean = torch.var_mean(x[: self.rows], (0, *range(2, x.ndim)), correction=0, keepdim=True)
            normal = (x - mean) * torch.rsqrt(var + self.eps)
        if self.weight is None:
            return normal
        # Outside of the kernel: under vmap, its gradient for the weight takes the statistics for constants, and
        # second derivatives come out wrong without a word (torch 2.13; the same holds for layer and instance norm).
        channels = (1, -1, *[1] * (x.ndim - 2))
        return normal * self.weight.view(channels) + self.bias.view(channels)

    def extra_repr(self) -> str:
        """The width and epsilon, as torch prints its own layers."""
        return f"{len(self.weight) if self.weight is not None else ''}, eps={self.eps}"


def _is_frozen(norm: _BatchNorm) -> bool:
    """A layer that its owner set to eval mode, or whose parameters do not learn, keeps its running statistics."""
    learns = any(parameter.requires_grad for parameter in norm.parameters())
    return norm.running_mean is not None and (not norm.training or (norm.affine and not learns))


def use_episode_statistics(net: nn.Module) -> tuple[list[str], list[str]]:
    """Replaces the batch-norm layers of a net, in place, by `EpisodeNorm`; parameter names stay the same.

    Args:
        net: Any module. Frozen batch-norm layers (in eval mode, or with no parameter that learns) are kept.

    Returns:
        The names of the layers that had running statistics and lost them, and those of the frozen ones.
    """
    converted, frozen = [], []
    replacements: dict[_BatchNorm, EpisodeNorm] = {}
    # A layer that is used in several places has a name in each, and gets one replacement.
    for name, norm in [*net.named_modules(remove_duplicate=False)]:
        if not isinstance(norm, _BatchNorm):
            continue
        if _is_frozen(norm):
            frozen.append(name)
            norm.eval()
            continue
        if norm not in replacements and norm.running_mean is not None:
            converted.append(name)
        parent, _, child = name.rpartition(".")
        setattr(net.get_submodule(parent), child, replacements.setdefault(norm, EpisodeNorm(norm)))
    return converted, frozen


@contextmanager
def _statistics_of_first(net: nn.Module, rows: int) -> Iterator[None]:
    layers = [module for module in net.modules() if isinstance(module, EpisodeNorm)]
    for layer in layers:
        layer.rows = rows
    try:
        yield
    finally:
        for layer in layers:
            layer.rows = None


def fuse(net: nn.Module, *, on: bool) -> None:
    """Has a net's layers take the fused kernel or not, see `EpisodeNorm`."""
    for module in net.modules():
        if isinstance(module, EpisodeNorm):
            module.fused = on


@contextmanager
def fused(net: nn.Module) -> Iterator[None]:
    """Has a net's layers take the fused kernel for a while."""
    fuse(net, on=True)
    try:
        yield
    finally:
        fuse(net, on=False)


def predict(
    net: nn.Module, params: Params, support: Tensor, query: Tensor, protocol: Protocol, *, batched: bool = True
) -> Tensor:
    """What a net predicts for the queries of one task under a batch-norm protocol.

    Args:
        net: The net, its batch-norm layers replaced by `use_episode_statistics`.
        params: Its (adapted) parameters, by name; those left out are the net's own.
        support: Support inputs, ``[support, *shape]``.
        query: Query inputs, ``[queries, *shape]``.
        protocol: Which examples the statistics come from.
        batched: Whether the net's layers may be run under vmap (used by ``support_plus_one``).

    Returns:
        Predictions, ``[queries, out]``.
    """
    if protocol == "transductive" or not has_norm(net):
        return cast(Tensor, torch.func.functional_call(net, params, (query,)))
    return predict_jointly(net, params, support, query, protocol, lambda _, out: out, batched=batched)


def predict_jointly(
    net: nn.Module,
    params: Params,
    support: Tensor,
    query: Tensor,
    protocol: Protocol,
    read: Callable[[Tensor, Tensor], Tensor],
    *,
    batched: bool = True,
) -> Tensor:
    """What is read from a net's outputs for support and queries, made in one forward pass under a protocol.

    Args:
        net: As in `predict`.
        params: As in `predict`.
        support: As in `predict`.
        query: As in `predict`.
        protocol: ``transductive`` takes the statistics of support and queries together.
        read: From the outputs for the support set and for queries to predictions ``[queries, out]``.
        batched: As in `predict`.

    Returns:
        Predictions, ``[queries, out]``.
    """

    def together(queries: Tensor) -> Tensor:
        out = torch.func.functional_call(net, params, (torch.cat([support, queries]),))
        return read(out[: len(support)], out[len(support) :])

    if protocol == "transductive" or not has_norm(net):
        return together(query)
    if protocol == "inductive":
        with _statistics_of_first(net, len(support)):
            return together(query)

    def alone(one: Tensor) -> Tensor:
        return together(one[None])[0]

    return vmap(alone, randomness="different")(query) if batched else torch.stack([*map(alone, query)])


def has_norm(net: nn.Module) -> bool:
    """Whether any layer of a net follows the protocol."""
    return any(isinstance(module, EpisodeNorm) for module in net.modules())
