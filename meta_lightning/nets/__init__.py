"""The nets of the standard benchmarks, as plain `torch.nn` modules without any meta-learning in them."""

from meta_lightning.nets.conv4 import Conv4
from meta_lightning.nets.mlp import MLP

__all__ = ["MLP", "Conv4"]
