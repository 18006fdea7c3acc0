import torch

from meta_lightning.data import manifest
from meta_lightning.data.episodes import keys
from meta_lightning.data.sources import Family
from meta_lightning.types import EpisodeShape, Split


def episode_hash(family: Family, seed: int, split: Split, shape: EpisodeShape, tasks: int) -> str:
    """The hash of a family's first episodes."""
    return manifest.episode_hash(shape, family.describe(keys(seed, split, torch.arange(tasks)), shape))
