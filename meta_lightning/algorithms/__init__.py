"""Meta-learning algorithms: one file each."""

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.algorithms.maml import MAMLModule

__all__ = ["MAMLModule", "MetaModule"]
