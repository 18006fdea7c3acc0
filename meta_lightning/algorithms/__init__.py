"""Meta-learning algorithms: one file each."""

from meta_lightning.algorithms.base import MetaModule
from meta_lightning.algorithms.inner_loop import InnerLoopModule
from meta_lightning.algorithms.maml import MAMLModule
from meta_lightning.algorithms.meta_sgd import MetaSGDModule
from meta_lightning.algorithms.protonet import ProtoNetModule
from meta_lightning.algorithms.reptile import ReptileModule

__all__ = ["InnerLoopModule", "MAMLModule", "MetaModule", "MetaSGDModule", "ProtoNetModule", "ReptileModule"]
