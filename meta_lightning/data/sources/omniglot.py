"""Omniglot: 1,623 handwritten characters, 20 drawings each."""

import hashlib
import os
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from meta_lightning.data.archives import Pictures, read_pictures
from meta_lightning.data.cache import cached
from meta_lightning.data.download import fetch
from meta_lightning.data.sources.base import Family, Source
from meta_lightning.data.sources.classes import LabelledImages, Rotations, check_disjoint
from meta_lightning.errors import ConfigError
from meta_lightning.functional import random
from meta_lightning.types import Split

# Published beside the archives, in the folder `python/` of brendenlake/omniglot.
_URL = "https://github.com/brendenlake/omniglot/raw/master/python/"
_MD5 = {
    "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
}
_RANDOM_SPLIT: dict[Split, int] = {"train": 1100, "val": 100, "test": 423}


class Omniglot(Source):
    """Characters of 50 alphabets as classes (Lake et al. 2015), ink 1 on background 0.

    Args:
        root: Folder with the two zips, ``images_background.zip`` and ``images_evaluation.zip``; null for
            ``$META_LIGHTNING_DATA/omniglot`` where that variable is set, else ``data/omniglot``.
        download: Fetch the zips that ``root`` lacks, and check that both are the official ones by their MD5. Off,
            the zips in ``root`` are read as they are.
        split: ``vinyals`` is the fixed split of Vinyals et al. 2016 (1028 / 172 / 423 characters); ``random`` draws
            1100 / 100 / 423, as the MAML paper, from ``split_seed``.
        split_seed: Seed of the random split.
        rotations: See `LabelledImages`.
        image_size: Height and width that the 105x105 drawings are reduced to.
    """

    def __init__(
        self,
        root: str | None = None,
        download: bool = False,
        split: Literal["vinyals", "random"] = "vinyals",
        split_seed: int = 0,
        rotations: Rotations = "per_task",
        image_size: int = 28,
    ) -> None:
        if image_size < 1:
            raise ConfigError(f"data.source.image_size is {image_size}; expected 1 or more, for example 28")
        self._root = Path(root) if root else _default_root()
        self._download = download
        self._split = split
        self._split_seed = split_seed
        self._rotations: Rotations = rotations
        self._image_size = image_size
        self._tables: dict[Split, LabelledImages] | None = None

    def prepare(self) -> None:
        """Fetches the zips if asked to, and caches the drawings as one tensor."""
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
        """Archives by their checksum, size and split."""
        split = f"{self._split} {self._split_seed}" if self._split == "random" else self._split
        return f"omniglot {self._checksum} {self._image_size}px {split} {self._rotations}"

    def constants(self) -> dict[str, Any]:
        """Size, polarity and scale of the pictures."""
        return {"image_size": self._image_size, "channels": 1, "inverted": True, "scale": 1 / 255}

    @cached_property
    def _checksum(self) -> str:
        digest = hashlib.sha256()
        for name in _MD5:
            digest.update((self._root / name).read_bytes())
        return digest.hexdigest()[:16]

    def _drawings(self) -> Pictures:
        pictures: Pictures = cached(
            f"omniglot-v1-{self._checksum}-{self._image_size}px",
            lambda: read_pictures([self._root / name for name in _MD5], self._image_size),
        )
        return pictures

    def _make_tables(self) -> dict[Split, LabelledImages]:
        drawings = self._drawings()
        images, names = drawings["images"], drawings["names"]
        row = {name: number for number, name in enumerate(names)}
        tables = {}
        for split, members in self._members(names).items():
            missing = [name for name in members if name not in row]
            if missing:
                raise ConfigError(
                    f"{len(missing)} characters of split {split!r} are not in {self._root}, the first {missing[0]!r}; "
                    "expected the official archives: set data.source.root"
                )
            table = images[[row[name] for name in members]]
            tables[split] = LabelledImages(table, members, self._rotations, split)
        check_disjoint(tables)
        return tables

    def _members(self, names: list[str]) -> dict[Split, list[str]]:
        if self._split == "vinyals":
            lists = resources.files("meta_lightning.data.sources") / "splits" / "omniglot_vinyals"
            return {split: (lists / f"{split}.txt").read_text().split() for split in _RANDOM_SPLIT}
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


def _default_root() -> Path:
    shared = os.environ.get("META_LIGHTNING_DATA")
    return Path(shared) / "omniglot" if shared else Path("data/omniglot")
