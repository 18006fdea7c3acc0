"""A user's net, made ready for meta-learning."""

from lightning_utilities.core.rank_zero import rank_zero_info
from torch import nn
from torch.nn.parameter import UninitializedParameter

from meta_lightning.errors import ConfigError
from meta_lightning.functional import norm
from meta_lightning.functional.layers import make_exact


def adopt(net: nn.Module, batch_norm: norm.Protocol) -> None:
    """Makes a net's normalisation layers follow the protocol, in place, and says which ones changed.

    Args:
        net: Any module.
        batch_norm: The protocol, for the message.

    Raises:
        ConfigError: If the net's parameters have no shape yet.
    """
    lazy = [name for name, parameter in net.named_parameters() if isinstance(parameter, UninitializedParameter)]
    if lazy:
        raise ConfigError(f"model.net has parameters without a shape ({lazy[0]}); expected no lazy layers")
    make_exact(net)
    converted, frozen = norm.use_episode_statistics(net)
    if converted:
        rank_zero_info(f"batch norm: layers {converted} now use the statistics of the episode, {batch_norm}")
    if frozen:
        rank_zero_info(f"batch norm: layers {frozen} are frozen and keep their running statistics")
