"""Classification tasks from labelled pictures, which may be rotated and are scaled to [0, 1]."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from meta_lightning.data.readers.pictures import scaled
from meta_lightning.data.sources.class_table import ClassTable
from meta_lightning.errors import ConfigError
from meta_lightning.functional import random
from meta_lightning.types import Inputs

Rotations = Literal["none", "per_task", "as_classes"]

_TURNS = 4


class LabelledImages(ClassTable):
    """A `ClassTable` of pictures whose classes may be rotated by multiples of 90 degrees.

    Args:
        images: uint8, ``[classes, examples, channels, height, width]``; with ``counts``,
            ``[all examples, channels, height, width]``, class by class.
        names: The names of the classes.
        counts: The number of examples of each class, if they differ.
        rotations: ``per_task`` rotates each class of each task by a random multiple of 90 degrees (Finn et al. 2017).
            ``as_classes`` makes each of the four rotations a class of its own (Vinyals et al. 2016).
        split: The split's name, for messages.
        rows: See `ClassTable`.

    Raises:
        ConfigError: If pictures are to be rotated but are not square.

    Example:
        >>> pictures = torch.randint(256, (10, 7, 1, 28, 28), dtype=torch.uint8)  # 10 classes of 7 pictures
        >>> table = LabelledImages(pictures, [f"class {number}" for number in range(10)], rotations="as_classes")
        >>> table.variants  # so there are 40 classes
        4
    """

    noun, variant_noun = "a picture", "turn"

    def __init__(
        self,
        images: Tensor,
        names: Sequence[str],
        counts: Sequence[int] | None = None,
        rotations: Rotations = "none",
        split: str = "",
        rows: Tensor | None = None,
    ) -> None:
        height, width = images.shape[-2:]
        if rotations != "none" and height != width:
            raise ConfigError(
                f"pictures are {height}x{width} and rotations are {rotations!r}; expected square pictures, or "
                "rotations: none"
            )
        super().__init__(images, names, counts, split, rows)
        self.variants = _TURNS if rotations == "as_classes" else 1
        self._rotations = rotations
        pixels = torch.arange(height * width).view(height, width)
        self._turned = torch.stack([torch.rot90(pixels, turn).flatten() for turn in range(_TURNS)])

    def to(self, device: torch.device) -> None:
        """Moves the pictures to a device. Meta-batches are assembled there from then on."""
        super().to(device)
        self._turned = self._turned.to(device)

    def preprocess(self, x: Inputs) -> Inputs:
        """Converts bytes to floats in [0, 1]."""
        assert isinstance(x, Tensor)
        return scaled(x)

    def draw_variants(self, keys: Tensor, drawn: Tensor) -> Tensor:
        """The rotation of each class in quarter turns, ``[tasks, ways]``."""
        if self._rotations == "per_task":
            return random.integers(keys, drawn.shape[1], _TURNS)
        return super().draw_variants(keys, drawn)

    @property
    def max_variants(self) -> int:
        """The four rotations, since a manifest may rotate classes that this table does not rotate."""
        return _TURNS

    def take(self, positions: Tensor, variants: Tensor) -> Inputs:
        """The rotated pictures at these positions, ``[tasks, ways, examples, channels, height, width]``."""
        images = super().take(positions, variants)
        assert isinstance(images, Tensor)
        if self._rotations == "none":
            return images
        order = self._turned[variants.to(images.device, non_blocking=True)][:, :, None, None]
        return images.flatten(-2).gather(-1, order.expand(*images.shape[:-2], -1)).view_as(images)

    def describe_class(self, name: str, variant: int, rows: list[int]) -> list[Any]:
        """A manifest's description of a class in an episode."""
        return [name, variant, rows]

    def read_class(self, described: list[Any]) -> tuple[str, int, list[int]]:
        """Name, quarter turns and rows, from what `describe_class` returned."""
        name, turn, rows = described
        return name, turn, rows
