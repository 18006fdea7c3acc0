"""Layers whose second derivatives are wrong in torch 2.13, corrected.

* Layer, instance and batch norm with a learned scale: the gradient kernels compute the scale's gradient from statistics
  that are constants to autograd. Under `torch.func.vmap` those kernels are what is differentiated a second time, so the
  meta-gradient misses terms. Applying scale and offset outside of the kernel avoids it (batch norm: `norm.py`).
* Embeddings: under vmap the gradient ignores ``padding_idx``, and everywhere the second derivative ignores
  ``scale_grad_by_freq``.
* Weight norm: the second derivative of torch's kernel is wrong with and without vmap.

torch reports none of these. `tests/functional/test_layers.py` compares each layer with finite differences.
"""

from __future__ import annotations  # the compiler can't trace a closure's annotations being made

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils import parametrizations, remove_weight_norm
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm


class _LayerNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        normal = F.layer_norm(input, self.normalized_shape, eps=self.eps) * self.weight
        return normal if self.bias is None else normal + self.bias


class _ExactInstanceNorm(_InstanceNorm):
    def _apply_instance_norm(self, input: Tensor) -> Tensor:
        """Normalises ``[examples, channels, ...]``."""
        channels = (1, -1, *[1] * (input.ndim - 2))
        return F.instance_norm(input, eps=self.eps) * self.weight.view(channels) + self.bias.view(channels)


class _InstanceNorm1d(_ExactInstanceNorm, nn.InstanceNorm1d): ...


class _InstanceNorm2d(_ExactInstanceNorm, nn.InstanceNorm2d): ...


class _InstanceNorm3d(_ExactInstanceNorm, nn.InstanceNorm3d): ...


class _Embedding(nn.Embedding):
    def forward(self, input: Tensor) -> Tensor:
        rows = F.embedding(input, self.weight)
        if not self.scale_grad_by_freq and self.padding_idx is None:
            return rows
        factor = torch.ones_like(input, dtype=rows.dtype)
        if self.padding_idx is not None:
            factor = factor * (input != self.padding_idx)
        if self.scale_grad_by_freq:
            tokens = input.flatten()
            counts = rows.new_zeros(self.num_embeddings).scatter_add(0, tokens, rows.new_ones(tokens.shape))
            factor = factor / counts[input]
        return _ScaledGradient.apply(rows, factor[..., None])  # type: ignore[no-any-return,no-untyped-call]  # torch's is not typed


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a constant factor at every order of differentiation."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, _: Tensor) -> Tensor:
        """The input; a copy, because autograd functions must not return their inputs under `torch.func`."""
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], _: Tensor) -> None:
        """Keeps the factor."""
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """The scaled gradient."""
        (factor,) = ctx.saved_tensors
        return grads[0] * factor, None


class _ExactWeightNorm(_WeightNorm):
    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        """Salimans & Kingma (2016), equation 2: ``g v / ||v||``."""
        if self.dim == -1:  # torch's way to say that one norm is taken of the whole tensor
            norm = weight_v.square().sum().sqrt()
        else:
            others = [dim for dim in range(weight_v.ndim) if dim != self.dim % weight_v.ndim]
            norm = weight_v.square().sum(others, keepdim=True).sqrt()
        return weight_v * (weight_g / norm)


_EXACT: dict[type[nn.Module], type[nn.Module]] = {
    nn.LayerNorm: _LayerNorm,
    nn.InstanceNorm1d: _InstanceNorm1d,
    nn.InstanceNorm2d: _InstanceNorm2d,
    nn.InstanceNorm3d: _InstanceNorm3d,
    nn.Embedding: _Embedding,
    _WeightNorm: _ExactWeightNorm,
}


def make_exact(net: nn.Module) -> list[str]:
    """Gives layers whose second derivative is wrong in torch an exact forward pass, in place.

    The layers stay the same objects with the same parameters, names and hooks; their class becomes a subclass. Affine
    instance norms with running statistics are left alone. Weight norms of torch's old style, a hook, become
    parametrizations, which changes their parameters' names as torch's own migration does: ``weight_g`` becomes
    ``parametrizations.weight.original0`` and ``weight_v`` becomes ``parametrizations.weight.original1``.

    Args:
        net: Any module.

    Returns:
        The names of the layers whose weight norm was of the old style.

    Example:
        >>> net = nn.Sequential(nn.Embedding(10, 4, padding_idx=0), nn.LayerNorm(4))
        >>> make_exact(net)
        []
        >>> isinstance(net[1], nn.LayerNorm)
        True
    """
    converted = [name for name, module in net.named_modules() if _modernise_weight_norm(module)]
    for module in net.modules():
        exact = _EXACT.get(type(module))
        if exact and getattr(module, "weight", module) is not None and getattr(module, "running_mean", None) is None:
            module.__class__ = exact
    return converted


def _modernise_weight_norm(module: nn.Module) -> bool:
    hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm)]
    for hook in hooks:
        scale, direction = getattr(module, f"{hook.name}_g"), getattr(module, f"{hook.name}_v")
        remove_weight_norm(module, hook.name)
        parametrizations.weight_norm(module, hook.name, None if hook.dim == -1 else hook.dim)  # type: ignore[arg-type]  # torch's annotation forgets None
        weight = module.get_submodule(f"parametrizations.{hook.name}")
        weight.original0, weight.original1 = scale, direction
    return bool(hooks)


def type_name(layer: nn.Module) -> str:
    """The name of a layer's class; for an exact layer, the name of torch's own."""
    return next(kind.__name__ for kind in type(layer).__mro__ if kind.__module__ != __name__)


def unsupported_embedding(net: nn.Module) -> str | None:
    """The message that refuses an embedding whose options meta-gradients can't be made with; None if there is none."""
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            where = f"model.net: layer {name} ({type_name(layer)})"
            if layer.sparse:
                return f"{where} has sparse gradients, which have no second derivative; expected sparse=False"
            if layer.max_norm is not None:
                return f"{where} has max_norm, which changes its weights while it predicts; expected max_norm=None"
    return None


def uncompilable_layer(net: nn.Module) -> str | None:
    """The name of a layer that `torch.compile` can't trace under vmap; None if there is none."""
    return next(
        (
            name
            for name, layer in net.named_modules()
            if isinstance(layer, _Embedding) and (layer.scale_grad_by_freq or layer.padding_idx is not None)
        ),
        None,
    )
