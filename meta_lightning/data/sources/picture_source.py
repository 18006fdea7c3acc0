"""What the sources of pictures in files share: decoding them once, and one table for each split."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch

from meta_lightning.console import notify, printable
from meta_lightning.data.readers.decoding import Decodable, DecodableFiles, Decoded, decode_all
from meta_lightning.data.readers.picture_files import PictureFile, PictureFiles
from meta_lightning.data.readers.pictures import PictureReader
from meta_lightning.data.row_cache import Rows, cached_rows
from meta_lightning.data.sources.base import Family, Source
from meta_lightning.data.sources.images import LabelledImages
from meta_lightning.errors import ConfigError
from meta_lightning.types import Split

# The version of the decoding; a change of the pixels needs a new one.
_VERSION = 1


class Collection(NamedTuple):
    """Pictures in the order of their classes.

    Attributes:
        pictures: The pictures.
        labels: What each picture is called in messages.
        counts: The number of pictures of each class, by its name.
        identity: A text that changes when a picture changes.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (9, 9)).save(f"{folder}/cat_0.png")
        ...     pictures = PictureFiles.of(Path(folder))
        >>> Collection.of(pictures, {"cat": pictures.files}).counts
        {'cat': 1}
    """

    pictures: Decodable
    labels: Sequence[str]
    counts: dict[str, int]
    identity: str

    @classmethod
    def of(cls, pictures: PictureFiles, classes: Mapping[str, Sequence[PictureFile]]) -> "Collection":
        """The files of classes."""
        files = [file for name in sorted(classes) for file in classes[name]]
        paths = [file.path for file in files]
        counts = {name: len(classes[name]) for name in sorted(classes)}
        return cls(DecodableFiles(pictures, paths), paths, counts, repr([counts, files]))


class PictureSource(Source, ABC):
    """Pictures of classes, decoded once to bytes of one size and kept in a file that processes share.

    A subclass states where the pictures are and how the classes are split.

    Args:
        root: The folder or file with the pictures.
        reader: What decodes them.

    Example:
        Pictures in one folder, whose class is the beginning of their name, as in ``cat_17.png``:

        >>> from meta_lightning.data.sources.division import divide
        >>> class Prefixed(PictureSource):
        ...     def __init__(self, root: str) -> None:
        ...         super().__init__(Path(root), PictureReader(image_size=84, channels=3))
        ...     def collect(self):
        ...         pictures, classes = PictureFiles.of(self._root), {}
        ...         for file in pictures.files:
        ...             classes.setdefault(file.path.partition("_")[0], []).append(file)
        ...         return Collection.of(pictures, classes)
        ...     def split_classes(self, names):
        ...         return divide(names, seed=0)
        >>> Prefixed("pictures").constants()["reader"]["init_args"]["image_size"]
        84
    """

    def __init__(self, root: Path, reader: PictureReader) -> None:
        self._root = root
        self._reader = reader

    @abstractmethod
    def collect(self) -> Collection:
        """Lists the pictures. Reads no pixels.

        Raises:
            ConfigError: If there are none, or they are not arranged as they should be.
        """

    @abstractmethod
    def split_classes(self, names: Sequence[str]) -> Mapping[Split, Sequence[str]]:
        """The classes of each split.

        Args:
            names: The names of the classes that there are.

        Raises:
            ConfigError: If they can't be split.
        """

    def prepare(self) -> None:
        """Decodes and caches the pictures.

        Raises:
            ConfigError: If they are missing or not arranged as they should be, or if one does not decode.
        """
        _ = self._rows

    def load(self, split: Split) -> Family:
        """The classes of a split."""
        if split not in self._tables:
            raise ConfigError(
                f"data.source: split {split!r} of {self._root} has no classes; expected some in train, val and test"
            )
        return self._tables[split]

    def fingerprint(self) -> str:
        """A checksum of the files, how they are decoded, and the classes of each split."""
        split = {part: [*names] for part, names in self._splits.items()}
        files = [checksums.partition(" ")[0] for checksums in self._rows.notes]
        content = repr([self._collection.counts, files, self._reader.settings(), split])
        return f"{type(self).__name__.lower()} {hashlib.sha256(content.encode()).hexdigest()[:16]}"

    def constants(self) -> dict[str, Any]:
        """How new pictures are prepared: see `PictureReader.constants`."""
        return self._reader.constants()

    @cached_property
    def _collection(self) -> Collection:
        return self.collect()

    @cached_property
    def _splits(self) -> dict[Split, Sequence[str]]:
        splits = self.split_classes([*self._collection.counts])
        return {split: names for split, names in splits.items() if names}

    @cached_property
    def _rows(self) -> Rows:
        collection, reader = self._collection, self._reader
        _ = self._splits  # what is wrong with them is said before pictures are decoded
        settings = repr([_VERSION, type(self).__name__, *reader.settings().values()])
        place = hashlib.sha256(f"{self._root.absolute()} {settings}".encode()).hexdigest()[:8]
        name = hashlib.sha256(f"{settings} {collection.identity}".encode(errors="replace")).hexdigest()[:16]
        shape = (reader.channels, reader.image_size, reader.image_size)

        def make() -> Sequence[Decoded]:
            return decode_all(collection.pictures, reader, self._root.name)  # type: ignore[return-value]

        return cached_rows(f"pictures-{place}", name, shape, make)

    @cached_property
    def _tables(self) -> dict[Split, LabelledImages]:
        counts = self._collection.counts
        ends = dict(zip(counts, accumulate(counts.values()), strict=True))
        rows = {name: range(ends[name] - count, ends[name]) for name, count in counts.items()}
        members = {split: {name: [*rows[name]] for name in names} for split, names in self._splits.items()}
        # Of two copies, the one in the later split is kept, so that results can be compared with others'.
        members = leave_out_copies(members, self._rows.notes, self._collection.labels, str(self._root))
        return {
            split: LabelledImages(
                self._rows.data,
                [*classes],
                [len(numbers) for numbers in classes.values()],
                split=split,
                rows=torch.tensor([number for numbers in classes.values() for number in numbers]),
            )
            for split, classes in members.items()
        }


Members = dict[Split, dict[str, list[int]]]
"""The numbers of the pictures of each class of each split."""


def leave_out_copies(members: Members, checksums: Sequence[str], labels: Sequence[str], root: str) -> Members:
    """Leaves out pictures of which a later split has a copy, with a note.

    CIFAR-100, for one, has a few pictures under two classes. Of two copies, the one in the later split is kept: test
    episodes stay comparable with those of others, and a picture less in training costs nothing.

    Args:
        members: The pictures of each split, in the order train, val, test.
        checksums: Of each picture; the part after the last space is of its pixels.
        labels: What each picture is called in messages.
        root: Where they are, for messages.

    Raises:
        ConfigError: If a class would lose half of its pictures or more: then it is in two splits, under two names.

    Example:
        >>> members = {"train": {"a": [0, 1, 2]}, "val": {}, "test": {"b": [3, 4]}}
        >>> leave_out_copies(members, ["x 1", "x 2", "x 3", "x 3", "x 4"], ["a/0", "a/1", "a/2", "b/0", "b/1"], "root")
        Note: a picture of root is left out of 'train', as another split has it, too: a/2 (as b/0)
        {'train': {'a': [0, 1]}, 'val': {}, 'test': {'b': [3, 4]}}
    """
    kept: Members = {}
    later: dict[str, int] = {}
    for split in reversed(members):
        pixels = {number: checksums[number].rpartition(" ")[2] for part in members[split].values() for number in part}
        copies: list[int] = []
        kept[split] = {}
        for name, numbers in members[split].items():
            found = [number for number in numbers if pixels[number] in later]
            if 2 * len(found) >= len(numbers):
                one, other = labels[found[0]], labels[later[pixels[found[0]]]]
                raise ConfigError(
                    f"data.source: {len(found)} of the {len(numbers)} pictures of class {printable(name)!r} of {root} "
                    f"are in two splits, the first {printable(one)} as {printable(other)}; expected classes that "
                    "share no picture with another split: remove or move one of the copies"
                )
            kept[split][name] = [number for number in numbers if pixels[number] not in later] if found else numbers
            copies += found
        if copies:
            pair = f"{printable(labels[copies[0]])} (as {printable(labels[later[pixels[copies[0]]]])})"
            what = f"{len(copies)} pictures of {root} are" if len(copies) > 1 else f"a picture of {root} is"
            has = "has them, too, the first" if len(copies) > 1 else "has it, too:"
            notify(f"Note: {what} left out of {split!r}, as another split {has} {pair}")
        later |= {found: number for number, found in pixels.items()}
    return {split: kept[split] for split in members}
