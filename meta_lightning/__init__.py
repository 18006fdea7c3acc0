"""Few-shot and meta-learning on PyTorch Lightning."""

from meta_lightning.algorithms import MAMLModule, MetaModule, MetaSGDModule, ProtoNetModule, ReptileModule
from meta_lightning.data import EpisodicDataModule
from meta_lightning.errors import ConfigError, DivergedError
from meta_lightning.types import EpisodeShape, Examples, Task
from meta_lightning.version import __version__

__all__ = [
    "ConfigError",
    "DivergedError",
    "EpisodeShape",
    "EpisodicDataModule",
    "Examples",
    "MAMLModule",
    "MetaModule",
    "MetaSGDModule",
    "ProtoNetModule",
    "ReptileModule",
    "Task",
    "__version__",
]
