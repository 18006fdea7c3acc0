"""Sources of tasks. Each source has a file of its own."""

from meta_lightning.data.sources.arrays import Arrays
from meta_lightning.data.sources.base import Family, Source
from meta_lightning.data.sources.cifar100 import CIFARFS, FC100
from meta_lightning.data.sources.class_table import ClassTable
from meta_lightning.data.sources.folder import Folder
from meta_lightning.data.sources.glyphs import Glyphs
from meta_lightning.data.sources.images import LabelledImages
from meta_lightning.data.sources.mini_imagenet import MiniImageNet
from meta_lightning.data.sources.omniglot import Omniglot
from meta_lightning.data.sources.picture_source import Collection, PictureSource
from meta_lightning.data.sources.sinusoid import Sinusoid
from meta_lightning.data.sources.table import Table
from meta_lightning.data.sources.task_table import TaskTable

__all__ = [
    "CIFARFS",
    "FC100",
    "Arrays",
    "ClassTable",
    "Collection",
    "Family",
    "Folder",
    "Glyphs",
    "LabelledImages",
    "MiniImageNet",
    "Omniglot",
    "PictureSource",
    "Sinusoid",
    "Source",
    "Table",
    "TaskTable",
]
