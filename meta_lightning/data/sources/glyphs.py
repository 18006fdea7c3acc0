"""Glyphs: letters of six scripts in the fonts that matplotlib ships. Needs no download."""

import hashlib
from typing import Any

from meta_lightning.data.archives import Pictures
from meta_lightning.data.cache import cached
from meta_lightning.data.letters import IMAGE_SIZE, draw_letters, identity
from meta_lightning.data.sources.base import Family, Source
from meta_lightning.data.sources.classes import LabelledImages, check_disjoint
from meta_lightning.errors import ConfigError
from meta_lightning.types import Split


class Glyphs(Source):
    """Letters as classes, each example another font slightly deformed: 28x28, ink 1 on background 0.

    Trains on Latin, Greek and Cyrillic (189 classes), validates on Georgian (101), tests on Armenian and Lao (82).
    Letters of one shape, such as Latin A, Greek Alpha and Cyrillic A, or O and o, are one class, that of the first.
    For the same reason classes are not turned: a turned letter may be another one.

    Args:
        examples: Pictures of each letter. Where it has fewer fonts (from 4 to 22), they repeat, deformed otherwise.
    """

    def __init__(self, examples: int = 20) -> None:
        if examples < 1:
            raise ConfigError(f"data.source.examples is {examples}; expected 1 or more, for example 20")
        self._examples = examples
        self._tables: dict[Split, LabelledImages] | None = None

    def prepare(self) -> None:
        """Draws the letters and caches them."""
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
        """Names and pictures by their checksum: other versions of the libraries may draw the very same."""
        digest = hashlib.sha256()
        for split, pictures in self._drawings().items():
            digest.update(f"{split} {pictures['names']}".encode() + pictures["images"].numpy().tobytes())
        return f"glyphs {digest.hexdigest()[:16]} {self._examples} examples {IMAGE_SIZE}px"

    def constants(self) -> dict[str, Any]:
        """Size, polarity and scale of the pictures."""
        return {"image_size": IMAGE_SIZE, "channels": 1, "inverted": True, "scale": 1 / 255}

    def _drawings(self) -> dict[Split, Pictures]:
        drawings: dict[Split, Pictures] = cached(
            f"glyphs-{identity()}-{self._examples}x{IMAGE_SIZE}px", lambda: draw_letters(self._examples)
        )
        return drawings
