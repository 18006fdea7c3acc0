"""Sources of tasks: one file each."""

from meta_lightning.data.sources.base import Family, Source
from meta_lightning.data.sources.classes import LabelledImages
from meta_lightning.data.sources.glyphs import Glyphs
from meta_lightning.data.sources.omniglot import Omniglot
from meta_lightning.data.sources.sinusoid import Sinusoid

__all__ = ["Family", "Glyphs", "LabelledImages", "Omniglot", "Sinusoid", "Source"]
