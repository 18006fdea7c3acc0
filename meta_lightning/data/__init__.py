"""Episodes and the sources that they are drawn from."""

from meta_lightning.data.module import EpisodicDataModule
from meta_lightning.data.sources import Folder, Glyphs, Omniglot, Sinusoid, Source

__all__ = ["EpisodicDataModule", "Folder", "Glyphs", "Omniglot", "Sinusoid", "Source"]
