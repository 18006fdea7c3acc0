"""Nets of the benchmarks: plain modules that know nothing of meta-learning."""

from meta_lightning.nets.conv4 import Conv4
from meta_lightning.nets.mlp import MLP

__all__ = ["MLP", "Conv4"]
