"""Batch normalisation as a stated protocol: which examples the statistics of a prediction come from.

In few-shot learning a batch *is* the task, so what batch normalisation computes over decides what is compared:

* ``transductive``: the query set's own statistics, as the MAML paper. All queries of a task are seen at once; where one
  forward pass takes the support set too (`predict_jointly`), it is seen with them.
* ``inductive``: the support set's statistics; a prediction never depends on another query.
* ``support_plus_one``: the support set and one query per forward pass, Reptile's "not transductive".
* ``running``: the running statistics that the net came with, for pretrained nets. They stay fixed in both loops; scale
  and offset are learned.

Under the first three protocols running statistics play no part: they mix tasks.
"""

from __future__ import annotations  # the compiler can't trace a closure's annotations being made

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from meta_lightning.functional.inputs import call, concatenate, count_examples, select
from meta_lightning.types import Inputs, Params

Protocol = Literal["transductive", "inductive", "support_plus_one", "running"]
EPISODE_PROTOCOLS: tuple[Protocol, ...] = ("transductive", "inductive", "support_plus_one")  # of `EpisodeNorm`


class EpisodeNorm(nn.Module):
    """Batch normalisation with the statistics of the forward pass at hand, or of its first rows only.

    Args:
        norm: The layer to take weight, bias and epsilon from.

    Attributes:
        rows: Of how many rows, from the first, the statistics are taken; None for all.
        groups: How many batches lie side by side, each with its own statistics. Their rows alternate: the first row of
            each batch, the second row of each, and so on.
        side_by_side: How many queries ``support_plus_one`` predicts in one forward pass; None for one, under vmap if
            possible.
        fused: Scale and offset inside of the kernel: fewer passes over memory, but never for second derivatives under
            vmap, which would be wrong.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight = norm.weight
        self.bias = norm.bias
        self.rows: int | None = None
        self.groups = 1
        self.side_by_side: int | None = None
        self.fused = False

    def forward(self, x: Tensor) -> Tensor:
        """Normalises ``x`` ``[examples, channels, ...]`` per channel."""
        if self.groups == 1:
            return self._normalise(x, self.weight, self.bias)
        # A channel of one batch is as good as a channel of its own, and the view moves no data.
        batches = x.reshape(len(x) // self.groups, self.groups * x.shape[1], *x.shape[2:])
        scales = (
            None if scale is None else scale.expand(self.groups, -1).reshape(-1) for scale in (self.weight, self.bias)
        )
        return self._normalise(batches, *scales).view_as(x)

    def _normalise(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        if self.fused and _sums_are_faster(x):
            mean, var = _statistics(x[: self.rows])
            return F.batch_norm(x, mean, var, weight, bias, training=False, eps=self.eps)
        if self.rows is None and self.fused:
            return F.batch_norm(x, None, None, weight, bias, training=True, eps=self.eps)
        if self.rows is None:
            normal = F.batch_norm(x, None, None, training=True, eps=self.eps)
        else:
            # Spelt out: `F.batch_norm` passes no gradient to statistics that are given to it.
            var, mean = torch.var_mean(x[: self.rows], (0, *range(2, x.ndim)), correction=0, keepdim=True)
            normal = (x - mean) * torch.rsqrt(var + self.eps)
        if weight is None or bias is None:
            return normal
        # Outside of the kernel: under vmap, its gradient for the weight takes the statistics for constants, and
        # second derivatives come out wrong without a word (torch 2.13; the same holds for layer and instance norm).
        channels = (1, -1, *[1] * (x.ndim - 2))
        return normal * weight.view(channels) + bias.view(channels)

    def extra_repr(self) -> str:
        """The width and epsilon, as torch prints its own layers."""
        return f"{len(self.weight) if self.weight is not None else ''}, eps={self.eps}"


def _sums_are_faster(x: Tensor) -> bool:
    """Whether torch's kernel for statistics, which sums one number after the other in doubles, can be avoided."""
    several = x.numel() > x.shape[1]  # the kernel refuses one value per channel
    plain = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
    return plain and several and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel, by vectorised sums over the inner dimensions first."""
    x = x.flatten(2) if x.ndim > 2 else x[:, :, None]
    count = x.shape[0] * x.shape[2]
    mean = x.sum(2).sum(0) / count
    return mean, (x - mean[:, None]).square().sum(2).sum(0) / count


class _FixedStatistics(_BatchNorm):
    """Stays in eval mode, so that it always normalises with its running statistics and never changes them."""

    def train(self, mode: bool = True) -> Self:
        """Eval mode, whatever is asked for."""
        return super().train(False)


class _FixedBatchNorm1d(_FixedStatistics, nn.BatchNorm1d): ...


class _FixedBatchNorm2d(_FixedStatistics, nn.BatchNorm2d): ...


class _FixedBatchNorm3d(_FixedStatistics, nn.BatchNorm3d): ...


_FIXED: dict[type[_BatchNorm], type[_BatchNorm]] = {
    nn.BatchNorm1d: _FixedBatchNorm1d,
    nn.BatchNorm2d: _FixedBatchNorm2d,
    nn.BatchNorm3d: _FixedBatchNorm3d,
}


def _is_frozen(norm: _BatchNorm) -> bool:
    """A layer that its owner set to eval mode, or whose parameters do not learn, keeps its running statistics."""
    learns = any(parameter.requires_grad for parameter in norm.parameters())
    return norm.running_mean is not None and (not norm.training or (norm.affine and not learns))


def apply_protocol(net: nn.Module, protocol: Protocol) -> tuple[list[str], list[str]]:
    """Makes the batch-norm layers of a net follow a protocol, in place; parameter names stay the same.

    Frozen layers (in eval mode, or with no parameter that learns) keep their running statistics under every protocol,
    and stay in eval mode even when the net is set to training mode. Under ``running`` so do all layers that have
    running statistics. The other layers are replaced by `EpisodeNorm`.

    Args:
        net: Any module.
        protocol: The batch-norm protocol.

    Returns:
        The names of the layers that had running statistics and lost them, and of the layers that keep them.
    """
    converted, fixed = [], []
    replacements: dict[_BatchNorm, EpisodeNorm] = {}
    # A layer that is used in several places has a name in each, and gets one replacement.
    for name, norm in [*net.named_modules(remove_duplicate=False)]:
        if not isinstance(norm, _BatchNorm):
            continue
        if _is_frozen(norm) or (protocol == "running" and norm.running_mean is not None):
            fixed.append(name)
            norm.eval()
            norm.__class__ = _FIXED.get(type(norm), type(norm))
            continue
        if norm not in replacements and norm.running_mean is not None:
            converted.append(name)
        parent, _, child = name.rpartition(".")
        setattr(net.get_submodule(parent), child, replacements.setdefault(norm, EpisodeNorm(norm)))
    return converted, fixed


@contextmanager
def _layers_with(net: nn.Module, **attributes: Any) -> Iterator[None]:
    """Sets attributes of a net's layers for a while."""
    layers = [module for module in net.modules() if isinstance(module, EpisodeNorm)]
    earlier = [{name: getattr(layer, name) for name in attributes} for layer in layers]
    try:
        for layer in layers:
            vars(layer).update(attributes)
        yield
    finally:
        for layer, values in zip(layers, earlier, strict=True):
            vars(layer).update(values)


def statistics_of_first(net: nn.Module, rows: int) -> AbstractContextManager[None]:
    """Has a net's layers take their statistics of the first rows of each forward pass for a while."""
    return _layers_with(net, rows=rows)


def fuse(net: nn.Module, *, on: bool) -> None:
    """Has a net's layers take the fused kernel or not, see `EpisodeNorm`."""
    for module in net.modules():
        if isinstance(module, EpisodeNorm):
            module.fused = on


def fused(net: nn.Module) -> AbstractContextManager[None]:
    """Has a net's layers take the fused kernel for a while."""
    return _layers_with(net, fused=True)


def side_by_side(net: nn.Module, queries: int | None) -> AbstractContextManager[None]:
    """Has ``support_plus_one`` predict several queries in one forward pass for a while, outside of vmap over tasks.

    The support set is in the pass once for each query, and every layer of batch norm computes the statistics of each
    query with its support set. No other layer of the net may let examples depend on each other.

    Args:
        net: The net, prepared by `apply_protocol`.
        queries: How many queries at most; None for one, as in training.
    """
    return _layers_with(net, side_by_side=queries)


def predict(
    net: nn.Module, params: Params, support: Inputs, query: Inputs, protocol: Protocol, *, batched: bool = True
) -> Tensor:
    """What a net predicts for the queries of one task under a batch-norm protocol.

    Args:
        net: The net, prepared by `apply_protocol`.
        params: Its (adapted) parameters, by name; those left out are the net's own.
        support: Support inputs, ``[support, *shape]``.
        query: Query inputs, ``[queries, *shape]``.
        protocol: Which examples the statistics come from.
        batched: Whether the net's layers may be run under vmap (used by ``support_plus_one``).

    Returns:
        Predictions, ``[queries, out]``.
    """
    if protocol in ("transductive", "running") or not has_norm(net):
        return call(net, params, query)
    return predict_jointly(net, params, support, query, protocol, lambda _, out: out, batched=batched)


def predict_jointly(
    net: nn.Module,
    params: Params,
    support: Inputs,
    query: Inputs,
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
    shots = count_examples(support)

    def together(queries: Inputs) -> Tensor:
        out = call(net, params, concatenate(support, queries))
        return read(out[:shots], out[shots:])

    if protocol in ("transductive", "running") or not has_norm(net):
        return together(query)
    if protocol == "inductive":
        with statistics_of_first(net, shots):
            return together(query)

    def alone(one: Inputs) -> Tensor:
        return together(tree_map(lambda tensor: tensor[None], one))[0]

    def several(queries: Inputs) -> Tensor:
        groups = count_examples(queries)
        repeated = tree_map(lambda tensor: tensor.repeat_interleave(groups, 0), support)
        with _layers_with(net, groups=groups):
            out = call(net, params, concatenate(repeated, queries))
        out = out.reshape(shots + 1, groups, *out.shape[1:])
        return torch.cat([read(out[:shots, group], out[shots:, group]) for group in range(groups)])

    if at_once := _queries_side_by_side(net):
        parts = range(0, count_examples(query), at_once)
        return torch.cat([several(select(query, slice(start, start + at_once))) for start in parts])
    if batched:
        return vmap(alone, randomness="different")(query)
    rows = [slice(number, number + 1) for number in range(count_examples(query))]
    return torch.cat([together(select(query, row)) for row in rows])


def _queries_side_by_side(net: nn.Module) -> int | None:
    return next((module.side_by_side for module in net.modules() if isinstance(module, EpisodeNorm)), None)


def has_norm(net: nn.Module) -> bool:
    """Whether any layer of a net follows the protocol."""
    return any(isinstance(module, EpisodeNorm) for module in net.modules())


def in_use(net: nn.Module, protocol: Protocol) -> str:
    """The protocol that a net's predictions follow in fact, in a word.

    Args:
        net: The net, prepared by `apply_protocol`.
        protocol: The protocol that it was prepared for, or that is set now.

    Returns:
        ``none`` for a net without batch norm, ``running`` where all layers keep their running statistics.

    Example:
        >>> in_use(nn.Linear(1, 1), "transductive")
        'none'
    """
    if has_norm(net):
        # A layer that came without running statistics has only those of the batch.
        return "transductive" if protocol == "running" else protocol
    return "running" if any(isinstance(module, _BatchNorm) for module in net.modules()) else "none"


def alternatives(net: nn.Module, protocol: Protocol) -> list[Protocol]:
    """The other protocols that a prepared net can be measured under; running statistics are gone by then."""
    others: list[Protocol] = ["transductive", "inductive", "support_plus_one"]
    return [other for other in others if other != in_use(net, protocol)] if has_norm(net) else []
