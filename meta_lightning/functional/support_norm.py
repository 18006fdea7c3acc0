"""Batch normalisation of an adapted net: the statistics of its support set, as fixed numbers."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from meta_lightning.functional.inputs import call, count_examples
from meta_lightning.functional.norm import EpisodeNorm, statistics_of_first
from meta_lightning.types import Inputs


class SupportNorm(nn.Module):
    """Batch normalisation with the statistics that a support set had: predictions do not depend on each other.

    A net that uses a layer several times has statistics for each use. `start_forward` begins with the first use.

    Args:
        norm: The layer to take weight, bias and epsilon from.
        mean: The mean of the inputs over the support set, ``[uses, channels]``.
        var: Their biased variance, ``[uses, channels]``.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, norm: EpisodeNorm, mean: Tensor, var: Tensor) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight = norm.weight
        self.bias = norm.bias
        self.register_buffer("mean", mean)
        self.register_buffer("var", var)
        self.use = 0

    def forward(self, x: Tensor) -> Tensor:
        """Normalises ``x`` ``[examples, channels, ...]`` per channel."""
        mean, var = self.mean[self.use], self.var[self.use]
        if len(self.mean) > 1:
            self.use = (self.use + 1) % len(self.mean)
        return F.batch_norm(x, mean, var, self.weight, self.bias, training=False, eps=self.eps)


def start_forward(net: nn.Module) -> None:
    """Has layers that a net uses several times begin with the statistics of their first use."""
    for module in net.modules():
        if isinstance(module, SupportNorm):
            module.use = 0


def keep_statistics(net: nn.Module, support: Inputs) -> None:
    """Fixes the batch-norm statistics of a net to those of a support set, in place; parameter names stay the same.

    The net then predicts as under the protocol ``inductive``. Layers that it does not use are left as they are.

    Args:
        net: A net that was prepared by `apply_protocol`, with the parameters to predict with.
        support: Support inputs, ``[support, *shape]``.

    Example:
        >>> from meta_lightning.functional.norm import apply_protocol
        >>> net = nn.Sequential(nn.BatchNorm1d(1, affine=False, track_running_stats=False))
        >>> apply_protocol(net, "inductive")
        ([], [])
        >>> keep_statistics(net, torch.tensor([[1.0], [3.0]]))
        >>> net(torch.tensor([[4.0]]))
        tensor([[2.0000]])
    """
    layers = {module: name for name, module in net.named_modules() if isinstance(module, EpisodeNorm)}
    statistics: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers.values()}

    def note(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        (x,) = args
        var, mean = torch.var_mean(x, (0, *range(2, x.ndim)), correction=0)
        statistics[layers[layer]].append((mean, var))  # type: ignore[index]  # the hooks are of these layers

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with statistics_of_first(net, count_examples(support)):  # one example alone has statistics too
            call(net, {}, support)
    finally:
        for hook in hooks:
            hook.remove()
    fix_statistics(net, {
        name: (torch.stack([mean for mean, _ in uses]), torch.stack([var for _, var in uses]))
        for name, uses in statistics.items() if uses
    })  # fmt: skip


def fix_statistics(net: nn.Module, statistics: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Has batch-norm layers normalise with given means and variances, ``[uses, channels]``, in place.

    Args:
        net: A net that was prepared by `apply_protocol`.
        statistics: Mean and variance by the name of the layer.
    """
    first_names = {module: name for name, module in net.named_modules()}
    replacements: dict[nn.Module, SupportNorm] = {}
    for name, layer in [*net.named_modules(remove_duplicate=False)]:
        if isinstance(layer, EpisodeNorm) and first_names[layer] in statistics:
            if layer not in replacements:
                replacements[layer] = SupportNorm(layer, *statistics[first_names[layer]])
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, replacements[layer])
