"""Episodes and where they come from."""

from meta_lightning.data.module import EpisodicDataModule
from meta_lightning.data.sources import Glyphs, Omniglot, Sinusoid, Source

__all__ = ["EpisodicDataModule", "Glyphs", "Omniglot", "Sinusoid", "Source"]
