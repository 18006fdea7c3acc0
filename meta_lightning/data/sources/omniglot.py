"""Omniglot: 1,623 handwritten characters, 20 drawings each."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from meta_lightning.data.cache import cached
from meta_lightning.data.download import default_root, fetch
from meta_lightning.data.readers.archives import read_pictures
from meta_lightning.data.readers.pictures import PictureReader, Pictures
from meta_lightning.data.sources.base import Family, Source
from meta_lightning.data.sources.division import published_split
from meta_lightning.data.sources.images import LabelledImages, Rotations
from meta_lightning.data.sources.overlap import check_disjoint
from meta_lightning.errors import ConfigError
from meta_lightning.functional import random
from meta_lightning.types import Split

# The official archives lie in the folder `python/` of brendenlake/omniglot.
_URL = "https://github.com/brendenlake/omniglot/raw/master/python/"
_MD5 = {
    "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
}
_RANDOM_SPLIT: dict[Split, int] = {"train": 1100, "val": 100, "test": 423}
# The folder of the 30 background alphabets, and how many of them are for validation. The other 20 are for testing.
_BACKGROUND, _VAL_ALPHABETS = "images_background", 5


class Omniglot(Source):
    """Handwritten characters of 50 alphabets as classes (Lake et al. 2015). Ink is 1, background is 0.

    Args:
        root: The folder with ``images_background.zip`` and ``images_evaluation.zip``; null for
            ``$META_LIGHTNING_DATA/omniglot`` if that variable is set, else for ``data/omniglot``.
        download: Download the archives that ``root`` lacks, and verify by their MD5 that both are the official ones.
            Without it, the archives in ``root`` are not verified.
        split: ``vinyals`` is the fixed split of Vinyals et al. 2016 (1028 / 172 / 423 characters). ``random`` draws
            1100 / 100 / 423 characters, as in the MAML paper. ``lake`` is the division of Lake et al. 2015, in which no
            alphabet is in two splits: the 964 characters of 30 background alphabets, of which 5 are drawn for
            validation, and the 659 characters of 20 evaluation alphabets for testing.
        split_seed: Seed of the draw of ``random`` and ``lake``.
        rotations: See `LabelledImages`.
        image_size: Height and width that the 105x105 drawings are resized to.

    Raises:
        ConfigError: If ``image_size`` is out of range.

    Example:
        Constructing a source touches no file; ``prepare`` fetches and reads the archives.

        >>> source = Omniglot("omniglot", download=True, split="random", split_seed=1)
        >>> source.constants()["reader"]["init_args"]["inverted"]  # black ink on white becomes 1 on 0
        True
    """

    def __init__(
        self,
        root: str | None = None,
        download: bool = False,
        split: Literal["vinyals", "random", "lake"] = "vinyals",
        split_seed: int = 0,
        rotations: Rotations = "per_task",
        image_size: int = 28,
    ) -> None:
        self._root = Path(root) if root else default_root("omniglot")
        self._download = download
        self._split = split
        self._split_seed = split_seed
        self._rotations: Rotations = rotations
        self._reader = PictureReader(image_size, channels=1, inverted=True)
        self._tables: dict[Split, LabelledImages] | None = None

    def prepare(self) -> None:
        """Downloads the archives if ``download`` is set, and caches the drawings as one tensor.

        Raises:
            ConfigError: If an archive is missing or broken, or if a download fails.
        """
        for name, md5 in _MD5.items():
            if self._download:
                fetch(_URL + name, self._root / name, md5, key="data.source.download")
            elif not (self._root / name).is_file():
                raise ConfigError(
                    f"no {name} in {self._root}: set data.source.root to its folder, or data.source.download to true"
                )
        self._drawings()

    def load(self, split: Split) -> Family:
        """The characters of a split."""
        if self._tables is None:
            self._tables = self._make_tables()
        return self._tables[split]

    def fingerprint(self) -> str:
        """The checksum of the archives, the image size, the split and the rotations."""
        split = self._split if self._split == "vinyals" else f"{self._split} {self._split_seed}"
        return f"omniglot {self._checksum} {self._reader.image_size}px {split} {self._rotations}"

    def constants(self) -> dict[str, Any]:
        """How new drawings, dark on a bright background, are prepared: see `PictureReader.constants`."""
        return self._reader.constants()

    @cached_property
    def _checksum(self) -> str:
        digest = hashlib.sha256()
        for name in _MD5:
            digest.update((self._root / name).read_bytes())
        return digest.hexdigest()[:16]

    def _drawings(self) -> Pictures:
        pictures: Pictures = cached(
            f"omniglot-v1-{self._checksum}-{self._reader.image_size}px",
            lambda: read_pictures([self._root / name for name in _MD5], self._reader),
        )
        return pictures

    def _make_tables(self) -> dict[Split, LabelledImages]:
        drawings = self._drawings()
        images, names = drawings["images"], drawings["names"]
        rows = {name: number for number, name in enumerate(names)}
        tables = {}
        for split, members in self._members(names).items():
            missing = [name for name in members if name not in rows]
            if missing:
                raise ConfigError(
                    f"{len(missing)} characters of split {split!r} are not in {self._root}, the first {missing[0]!r}; "
                    "expected the official archives: set data.source.root"
                )
            table = images[[rows[name] for name in members]]
            tables[split] = LabelledImages(table, members, rotations=self._rotations, split=split)
        check_disjoint(tables)
        return tables

    def _members(self, names: list[str]) -> dict[Split, list[str]]:
        if self._split == "vinyals":
            return published_split("omniglot_vinyals")
        if self._split == "lake":
            return _by_alphabet(names, self._split_seed)
        if len(names) != sum(_RANDOM_SPLIT.values()):
            raise ConfigError(
                f"{self._root} has {len(names)} characters; expected the {sum(_RANDOM_SPLIT.values())} of the official "
                "archives: set data.source.root"
            )
        order = random.choose(random.key(self._split_seed), len(names), len(names)).tolist()
        members, start = {}, 0
        for split, size in _RANDOM_SPLIT.items():
            members[split] = [names[number] for number in order[start : start + size]]
            start += size
        return members


def _by_alphabet(names: list[str], seed: int) -> dict[Split, list[str]]:
    """The division of Lake et al. 2015, with some background alphabets for validation."""
    alphabet = {name: name.rpartition("/")[0] for name in names}
    background = sorted({of for of in alphabet.values() if of.startswith(_BACKGROUND)})
    order = random.choose(random.key(seed), len(background), len(background)).tolist()
    val = {background[number] for number in order[:_VAL_ALPHABETS]}
    return {
        "train": [name for name in names if alphabet[name] in background and alphabet[name] not in val],
        "val": [name for name in names if alphabet[name] in val],
        "test": [name for name in names if alphabet[name] not in background],
    }
