"""Folder: a user's own pictures in a folder or a zip, with a folder for each class."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from meta_lightning.console import printable
from meta_lightning.data.readers.picture_files import PictureFile, PictureFiles
from meta_lightning.data.readers.pictures import PictureReader, Resize
from meta_lightning.data.sources.division import divide, read_split_file
from meta_lightning.data.sources.picture_source import Collection, PictureSource
from meta_lightning.errors import ConfigError
from meta_lightning.types import SPLITS, Split


class Folder(PictureSource):
    """Pictures (png, jpg, webp, bmp, tif) of any size in a folder or a zip, in one of two layouts.

    - ``train|val|test/<class>/<picture>``: the splits are given.
    - ``<class>/<picture>``: ``split_file`` gives the classes of each split, or a seeded draw does, with 64 % of the
      classes for training, 16 % for validation and 20 % for testing.

    Pictures are decoded once, on all CPUs, and cached as bytes. They are decoded again when the name, size or time of a
    file changes.

    Args:
        root: The folder or the zip.
        image_size: Height and width that pictures are resized to.
        channels: 1 for grey, 3 for colour.
        resize: How a picture that is not square becomes square: ``stretch``, ``crop`` (the central square) or ``pad``
            (on white), see `PictureReader`.
        split_file: A YAML or JSON file with lists of class names under ``train``, ``val`` and ``test``.
        split_seed: Seed of the split if there is neither a ``split_file`` nor folders of splits.

    Raises:
        ConfigError: If a setting is out of range.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for number in range(20):
        ...         path = Path(folder) / f"class {number % 5}" / f"{number}.png"
        ...         path.parent.mkdir(exist_ok=True)
        ...         Image.new("L", (40, 30), number).save(path)
        ...     table = Folder(folder, image_size=16, resize="crop").load("train")
        >>> table.names, table.counts.tolist()
        (['class 0', 'class 2', 'class 3'], [4, 4, 4])
    """

    def __init__(
        self,
        root: str,
        image_size: int = 84,
        channels: int = 3,
        resize: Resize = "crop",
        split_file: str | None = None,
        split_seed: int = 0,
    ) -> None:
        super().__init__(Path(root), PictureReader(image_size, channels, resize))
        if split_seed < 0:
            raise ConfigError(f"data.source.split_seed is {split_seed}; expected 0 or more")
        self._split_file = Path(split_file) if split_file else None
        self._split_seed = split_seed

    @cached_property
    def _listed(self) -> tuple[PictureFiles, dict[str, dict[str, list[PictureFile]]]]:
        pictures = PictureFiles.of(self._root)
        return pictures, pictures.by_class()

    def collect(self) -> Collection:
        """Lists the pictures."""
        pictures, groups = self._listed
        classes: dict[str, list[PictureFile]] = {}
        owner: dict[str, str] = {}
        for split, members in groups.items():
            for name, files in members.items():
                if name in owner:
                    raise ConfigError(
                        f"data.source.root: class {printable(name)!r} of {self._root} lies in {owner[name]} and in "
                        f"{split}; expected each class in one split, since a test needs classes that are new: move or "
                        "rename one of them"
                    )
                owner[name], classes[name] = split, files
        return Collection.of(pictures, classes)

    def split_classes(self, names: Sequence[str]) -> Mapping[Split, Sequence[str]]:
        """The classes of each split: by the folders, by the file, or by the seed."""
        _, groups = self._listed
        if "" not in groups:
            if self._split_file:
                raise ConfigError(
                    f"data.source.split_file is {self._split_file}, but {self._root} is split already into "
                    f"{', '.join(sorted(groups))}; leave split_file out, or put the class folders into one folder"
                )
            return {split: sorted(groups[split]) for split in SPLITS if split in groups}
        if self._split_file:
            return read_split_file(self._split_file, names, self._root)
        try:
            return divide(names, self._split_seed)
        except ConfigError as error:
            raise ConfigError(f"data.source.root {self._root}: {error}") from error
