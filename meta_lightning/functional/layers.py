"""Layers whose second derivative under vmap is wrong in torch 2.13, made right.

With a learned scale, the gradient kernels of layer, instance and batch norm give the scale's gradient from statistics
that are constants to autograd. Under `torch.func.vmap` those kernels are what is differentiated a second time, so the
meta-gradient misses terms, silently. Applying scale and offset outside of the kernel avoids it (batch norm: `norm.py`).
"""

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.instancenorm import _InstanceNorm


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


_EXACT: dict[type[nn.Module], type[nn.Module]] = {
    nn.LayerNorm: _LayerNorm,
    nn.InstanceNorm1d: _InstanceNorm1d,
    nn.InstanceNorm2d: _InstanceNorm2d,
    nn.InstanceNorm3d: _InstanceNorm3d,
}


def make_exact(net: nn.Module) -> None:
    """Gives the affine layer and instance norms of a net, in place, a forward pass that differentiates right.

    The layers stay what they are: the same objects, parameters, names and hooks, of a subclass of their class. Layers
    with running statistics are left alone.
    """
    for module in net.modules():
        exact = _EXACT.get(type(module))
        if exact and module.weight is not None and getattr(module, "running_mean", None) is None:
            module.__class__ = exact
