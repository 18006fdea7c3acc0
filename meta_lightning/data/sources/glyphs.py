"""Glyphs: letters of six scripts in the fonts that matplotlib ships. They need no download."""

import hashlib
from typing import Any

from meta_lightning.data.cache import cached
from meta_lightning.data.readers.pictures import PictureReader, Pictures
from meta_lightning.data.sources.base import Family, Source
from meta_lightning.data.sources.glyph_letters import IMAGE_SIZE, draw_letters, identity
from meta_lightning.data.sources.images import LabelledImages
from meta_lightning.data.sources.overlap import check_disjoint
from meta_lightning.errors import ConfigError
from meta_lightning.types import Split


class Glyphs(Source):
    """Letters as classes, drawn in different fonts and slightly deformed: 28x28 pixels, ink 1 on background 0.

    The training classes are Latin, Greek and Cyrillic letters (189), the validation classes Georgian ones (101), the
    test classes Armenian and Lao ones (82). Letters of the same shape, such as Latin A, Greek Alpha and Cyrillic A, or
    O and o, form one class with the name of the first. Classes are not rotated, since a rotated letter may look like
    another letter.

    Args:
        examples: Pictures of each letter. A letter has between 4 and 22 fonts. Further pictures use the same fonts with
            other deformations.

    Raises:
        ConfigError: If ``examples`` is below 1.

    Example:
        >>> from meta_lightning.data import EpisodicDataModule
        >>> data = EpisodicDataModule(Glyphs(examples=20), ways=5, shots=1)  # draws nothing until the first use
        >>> data.source.constants()["reader"]["init_args"]["image_size"]
        28
    """

    def __init__(self, examples: int = 20) -> None:
        if examples < 1:
            raise ConfigError(f"data.source.examples is {examples}; expected 1 or more, for example 20")
        self._examples = examples
        self._tables: dict[Split, LabelledImages] | None = None

    def prepare(self) -> None:
        """Draws and caches the letters."""
        self._drawings()

    def load(self, split: Split) -> Family:
        """The letters of a split."""
        if self._tables is None:
            drawings = self._drawings()
            tables = {part: LabelledImages(**drawings[part], split=part) for part in drawings}
            check_disjoint(tables)
            self._tables = tables
        return self._tables[split]

    def fingerprint(self) -> str:
        """A checksum of names and pictures. Library versions that draw equal pictures have equal fingerprints."""
        digest = hashlib.sha256()
        for split, pictures in self._drawings().items():
            digest.update(f"{split} {pictures['names']}".encode() + pictures["images"].numpy().tobytes())
        return f"glyphs {digest.hexdigest()[:16]} {self._examples} examples {IMAGE_SIZE}px"

    def constants(self) -> dict[str, Any]:
        """How new letters, dark on a bright background, are prepared: see `PictureReader.constants`."""
        return PictureReader(IMAGE_SIZE, channels=1, inverted=True).constants()

    def _drawings(self) -> dict[Split, Pictures]:
        drawings: dict[Split, Pictures] = cached(
            f"glyphs-{identity()}-{self._examples}x{IMAGE_SIZE}px", lambda: draw_letters(self._examples)
        )
        return drawings
