"""Episodes, the sources that they are drawn from, and what a source of your own is built from."""

from meta_lightning.data.module import EpisodicDataModule
from meta_lightning.data.readers.picture_files import PictureFiles
from meta_lightning.data.readers.pictures import PictureReader
from meta_lightning.data.sources import (
    CIFARFS,
    FC100,
    Arrays,
    ClassTable,
    Collection,
    Family,
    Folder,
    Glyphs,
    LabelledImages,
    MiniImageNet,
    Omniglot,
    PictureSource,
    Sinusoid,
    Source,
    Table,
    TaskTable,
)
from meta_lightning.data.sources.division import divide

__all__ = [
    "CIFARFS",
    "FC100",
    "Arrays",
    "ClassTable",
    "Collection",
    "EpisodicDataModule",
    "Family",
    "Folder",
    "Glyphs",
    "LabelledImages",
    "MiniImageNet",
    "Omniglot",
    "PictureFiles",
    "PictureReader",
    "PictureSource",
    "Sinusoid",
    "Source",
    "Table",
    "TaskTable",
    "divide",
]
