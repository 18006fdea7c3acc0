"""A source of your own: pictures of waves, whose class is their direction and length. docs/own_source.md runs it."""

import math

import torch
from torch import Tensor

from meta_lightning import ConfigError
from meta_lightning.data import Family, LabelledImages, Source
from meta_lightning.types import Split

_CLASSES: dict[Split, int] = {"train": 60, "val": 20, "test": 20}


class Waves(Source):
    """Grey pictures of plane waves. The examples of a class differ in phase and noise.

    Args:
        examples: Pictures of each class.
        size: Height and width in pixels.
        noise: The standard deviation of the noise; the waves have amplitude 1.
    """

    def __init__(self, examples: int = 20, size: int = 28, noise: float = 0.5) -> None:
        if examples < 2:  # a ConfigError is printed as it is: say what was found, what was expected, and the key
            raise ConfigError(f"data.source.examples is {examples}; expected 2 or more, for support and queries")
        self.examples = examples
        self.size = size
        self.noise = noise

    def prepare(self) -> None:
        """Downloads and caches nothing: these pictures are drawn in memory."""

    def load(self, split: Split) -> Family:
        """The classes of a split. Every process must get the same ones, so they are drawn from a seed of their own."""
        generator = torch.Generator().manual_seed(["train", "val", "test"].index(split))
        pictures = torch.stack([self._draw(generator) for _ in range(_CLASSES[split])])
        names = [f"{split} wave {number}" for number in range(_CLASSES[split])]
        return LabelledImages(pictures, names, split=split)

    def fingerprint(self) -> str:
        """Changes whenever the pictures do: a resume refuses other data, and a report names them."""
        return f"waves v1 {self.examples} examples, {self.size} pixels, noise {self.noise}"

    def _draw(self, generator: torch.Generator) -> Tensor:
        """The pictures of one class, uint8, ``[examples, 1, size, size]``."""
        angle, length = torch.rand(2, generator=generator).tolist()
        phases = math.tau * torch.rand(self.examples, 1, 1, 1, generator=generator)
        y, x = torch.meshgrid(torch.arange(self.size), torch.arange(self.size), indexing="ij")
        position = x * math.cos(math.pi * angle) + y * math.sin(math.pi * angle)
        waves = torch.sin(math.tau * position / (4 + 8 * length) + phases)
        noise = self.noise * torch.randn(waves.shape, generator=generator)
        return (127.5 + 50 * (waves + noise)).clamp(0, 255).to(torch.uint8)
