"""Preparation of a user's net for meta-learning."""

from lightning_utilities.core.rank_zero import rank_zero_info
from torch import nn
from torch.nn.parameter import UninitializedParameter

from meta_lightning.errors import ConfigError
from meta_lightning.functional.layers import make_exact, uncompilable_layer, unsupported_embedding
from meta_lightning.functional.norm import Protocol, apply_protocol


def prepare_net(net: nn.Module, batch_norm: Protocol, *, compile: bool) -> None:
    """Adapts some layers of a net to meta-learning, in place.

    Batch-norm layers follow the protocol, see `apply_protocol`. Layers whose second derivatives are wrong in torch are
    corrected, see `make_exact`. Messages say what changes for the user.

    Args:
        net: Any module.
        batch_norm: The batch-norm protocol.
        compile: Whether the meta-step is to be compiled.

    Raises:
        ConfigError: If the net is no module or not constructed, a parameter of it has no shape yet, an embedding has
            options that meta-gradients can't be made with, or a layer can't be compiled.
    """
    if not isinstance(net, nn.Module):
        kind = f"the class {net.__name__}" if isinstance(net, type) else f"a {type(net).__name__}"
        raise ConfigError(f"model.net is {kind}; expected an object of a subclass of torch.nn.Module")
    if "_modules" not in vars(net):
        raise ConfigError(f"{type(net).__name__}.__init__ does not call super().__init__(); call it first")
    lazy = [name for name, parameter in net.named_parameters() if isinstance(parameter, UninitializedParameter)]
    if lazy:
        raise ConfigError(f"model.net has parameters without a shape ({lazy[0]}); expected no lazy layers")
    if problem := unsupported_embedding(net):
        raise ConfigError(problem)
    if modernised := make_exact(net):
        rank_zero_info(f"weight norm: layers {modernised} now use torch.nn.utils.parametrizations.weight_norm")
    if compile and (name := uncompilable_layer(net)) is not None:
        raise ConfigError(
            f"model.compile is true, but the compiler can't trace the gradient of layer {name} of model.net, an "
            "embedding with padding_idx or scale_grad_by_freq; set model.compile to false"
        )
    converted, fixed = apply_protocol(net, batch_norm)
    if converted:
        rank_zero_info(
            f"batch norm: layers {converted} now use the statistics of the episode ({batch_norm}); model.batch_norm: "
            "running keeps those of a pretrained net"
        )
    if fixed:
        rank_zero_info(f"batch norm: layers {fixed} keep their running statistics, which stay fixed")
