"""Few-shot and meta-learning on PyTorch Lightning."""

from meta_lightning.algorithms import (
    InnerLoopModule,
    MAMLModule,
    MetaModule,
    MetaSGDModule,
    ProtoNetModule,
    ReptileModule,
)
from meta_lightning.callbacks import run_start as run_start
from meta_lightning.data import EpisodicDataModule
from meta_lightning.engine.adapted import AdaptedNet
from meta_lightning.errors import ConfigError, DivergedError
from meta_lightning.runs import Run, load_run
from meta_lightning.types import EpisodeShape, Examples, Task
from meta_lightning.version import __version__

__all__ = [
    "AdaptedNet",
    "ConfigError",
    "DivergedError",
    "EpisodeShape",
    "EpisodicDataModule",
    "Examples",
    "InnerLoopModule",
    "MAMLModule",
    "MetaModule",
    "MetaSGDModule",
    "ProtoNetModule",
    "ReptileModule",
    "Run",
    "Task",
    "__version__",
    "load_run",
]
