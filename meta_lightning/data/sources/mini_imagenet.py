"""mini-ImageNet: 100 classes of ImageNet with 600 pictures each."""

import csv
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from meta_lightning.console import printable
from meta_lightning.data.download import default_root
from meta_lightning.data.readers.picture_files import PictureFile, PictureFiles
from meta_lightning.data.readers.pictures import PictureReader, Resize
from meta_lightning.data.sources.division import check_published, published_split
from meta_lightning.data.sources.picture_source import Collection, PictureSource
from meta_lightning.errors import ConfigError
from meta_lightning.types import SPLITS, Split

_COLUMNS = ("filename", "label")


class MiniImageNet(PictureSource):
    """mini-ImageNet with the split of Ravi & Larochelle 2017: 64 / 16 / 20 classes.

    ImageNet's licence forbids its distribution, so the pictures are the user's own, in one of two layouts:

    - a folder for each class, named by its WordNet id (``n01532829``), with or without folders of splits above them;
    - ``images/`` beside ``train.csv``, ``val.csv`` and ``test.csv`` with the columns ``filename`` and ``label``, as
      published by Ravi & Larochelle. The files then give the split.

    Args:
        root: The folder, or a zip of class folders; null for ``$META_LIGHTNING_DATA/mini_imagenet`` if that variable is
            set, else for ``data/mini_imagenet``.
        image_size: Height and width that pictures are resized to.
        resize: How a picture that is not square becomes square, see `PictureReader`. The usual preparation stretches.

    Example:
        >>> MiniImageNet("mini_imagenet").constants()["reader"]["init_args"]["image_size"]
        84
    """

    def __init__(self, root: str | None = None, image_size: int = 84, resize: Resize = "stretch") -> None:
        folder = Path(root) if root else default_root("mini_imagenet")
        super().__init__(folder, PictureReader(image_size, channels=3, resize=resize))

    def collect(self) -> Collection:
        """Lists the pictures of the tables, or of class folders."""
        pictures = PictureFiles.of(self._root)
        classes = self._listed(pictures) if self._tables_of_files else pictures.classes()
        return Collection.of(pictures, classes)

    def split_classes(self, names: Sequence[str]) -> Mapping[Split, Sequence[str]]:
        """The split of the tables, or the published one."""
        if self._tables_of_files:
            return {split: [*dict.fromkeys(table.values())] for split, table in self._tables_of_files.items()}
        return check_published(published_split("mini_imagenet"), names, str(self._root))

    @cached_property
    def _tables_of_files(self) -> dict[Split, dict[str, str]]:
        """The class of each file of each split, by the tables; empty where there are none."""
        paths: dict[Split, Path] = {split: self._root / f"{split}.csv" for split in SPLITS}
        present = [path for path in paths.values() if path.is_file()]
        if not present:
            return {}
        if missing := [path.name for path in paths.values() if path not in present]:
            raise ConfigError(
                f"data.source.root: {self._root} has {present[0].name} and lacks {' and '.join(missing)}; expected "
                "train.csv, val.csv and test.csv"
            )
        tables = {split: _read_table(path) for split, path in paths.items()}
        owner: dict[str, Split] = {}
        for split, table in tables.items():
            for name in table.values():
                if owner.setdefault(name, split) != split:
                    raise ConfigError(
                        f"data.source.root: class {printable(name)!r} of {self._root} is in {owner[name]}.csv and in "
                        f"{split}.csv; expected each class in one split"
                    )
        return tables

    def _listed(self, pictures: PictureFiles) -> dict[str, list[PictureFile]]:
        """The pictures of each class, by the tables."""
        files = {file.path.rpartition("/")[2]: file for file in pictures.files}
        classes: dict[str, list[PictureFile]] = {}
        for split, table in self._tables_of_files.items():
            for filename, name in table.items():
                if filename not in files:
                    raise ConfigError(
                        f"data.source.root: {split}.csv of {self._root} names {printable(filename)!r}, which is not "
                        "among the pictures; expected it in images/"
                    )
                classes.setdefault(name, []).append(files[filename])
        return classes


def _read_table(path: Path) -> dict[str, str]:
    """The class of each file."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if missing := [name for name in _COLUMNS if name not in (rows.fieldnames or [])]:
                raise ConfigError(f"data.source.root: {path} lacks the column {missing[0]!r}; expected filename,label")
            table: dict[str, str] = {}
            for row in rows:
                filename, label = row["filename"], row["label"]
                if not filename or not label:
                    raise ConfigError(f"data.source.root: {path}, line {rows.line_num}: expected filename,label")
                table[filename] = label
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"data.source.root: {path} can't be read ({error}); expected filename,label") from error
    return table
