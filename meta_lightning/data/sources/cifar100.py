"""CIFAR-FS and FC100: the 100 classes of CIFAR-100, divided in two ways."""

import tarfile
from abc import ABC
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from meta_lightning.data.download import default_root, fetch
from meta_lightning.data.readers.decoding import checksum
from meta_lightning.data.readers.picture_files import PictureFiles
from meta_lightning.data.readers.pictures import PictureReader
from meta_lightning.data.sources.division import check_published, published_split
from meta_lightning.data.sources.picture_source import Collection, PictureSource
from meta_lightning.errors import ConfigError
from meta_lightning.types import Split

_ARCHIVE = "cifar-100-binary.tar.gz"
_URL = f"https://www.cs.toronto.edu/~kriz/{_ARCHIVE}"
_MD5 = "03b5dce01913d631647c71ecec9e9cb8"

# A record of the archive: the byte of the coarse class, that of the fine class, and the three planes of a picture.
_SIDE = 32
_RECORD = 2 + 3 * _SIDE**2


class _Cifar100(PictureSource, ABC):
    """What both divisions share.

    Attributes:
        split: The folder of the lists of classes that ship with the package.
    """

    split: str

    def __init__(self, root: str | None = None, download: bool = False, image_size: int = _SIDE) -> None:
        super().__init__(Path(root) if root else default_root("cifar_fs"), PictureReader(image_size, channels=3))
        self._download = download

    def prepare(self) -> None:
        """Downloads the archive if ``download`` is set, and decodes and caches the pictures.

        Raises:
            ConfigError: If there is nothing to read, it is broken, or a class is missing.
        """
        if self._download:
            fetch(_URL, self._root / _ARCHIVE, _MD5, key="data.source.download")
        elif not self._root.exists():
            raise ConfigError(
                f"data.source.root: there is no {self._root}; set it to the folder of {_ARCHIVE}, or to a folder or "
                "zip of class folders, or set data.source.download to true"
            )
        super().prepare()

    def collect(self) -> Collection:
        """Lists the pictures of the archive, or of class folders."""
        if (archive := self._root / _ARCHIVE).is_file():
            return _read_archive(archive)
        zips = sorted(self._root.glob("*.zip")) if self._root.is_dir() else []
        pictures = PictureFiles.of(zips[0] if len(zips) == 1 else self._root)
        return Collection.of(pictures, pictures.classes())

    def split_classes(self, names: Sequence[str]) -> Mapping[Split, Sequence[str]]:
        """The published split."""
        return check_published(published_split(self.split), names, str(self._root))


class CIFARFS(_Cifar100):
    """CIFAR-FS: CIFAR-100 with 64 / 16 / 20 classes drawn at random (Bertinetto et al. 2019, section 4.1).

    Args:
        root: The folder with ``cifar-100-binary.tar.gz``, which is not verified unless ``download`` is set; or a folder
            or zip of class folders, with or without folders of splits above them; or a folder with a single zip. Null
            for ``$META_LIGHTNING_DATA/cifar_fs`` if that variable is set, else for ``data/cifar_fs``.
        download: Download the archive of 161 MB that ``root`` lacks, and verify by its MD5 that it is the official one.
        image_size: Height and width that the 32x32 pictures are resized to.

    Example:
        >>> source = CIFARFS("cifar_fs", download=True)
        >>> source.constants()["reader"]["init_args"]["channels"]
        3
    """

    split = "cifar_fs"


class FC100(_Cifar100):
    """FC100: CIFAR-100 with 60 / 20 / 20 classes, by superclasses (Oreshkin et al. 2018, section 4.1).

    No superclass is in two splits, so that test classes are less like those of training than in `CIFARFS`.

    Args:
        root: See `CIFARFS`, whose data it shares.
        download: See `CIFARFS`.
        image_size: Height and width that the 32x32 pictures are resized to.

    Example:
        >>> [len(classes) for classes in FC100().split_classes(sum(published_split("fc100").values(), [])).values()]
        [60, 20, 20]
    """

    split = "fc100"


class _Records:
    """Pictures of the archive.

    Args:
        pixels: uint8, ``[pictures, 3, 32, 32]``.
        labels: What each picture is called in messages.
    """

    def __init__(self, pixels: np.ndarray, labels: list[str]) -> None:
        self._pixels = pixels
        self._labels = labels

    def __len__(self) -> int:
        return len(self._pixels)

    def decode(self, number: int, reader: PictureReader) -> tuple[np.ndarray, str]:
        """Resizes a picture."""
        pixels = np.ascontiguousarray(self._pixels[number].transpose(1, 2, 0))
        return reader.convert(Image.fromarray(pixels), self._labels[number]), checksum(pixels.data.cast("B"))


def _read_archive(path: Path) -> Collection:
    """Reads the binary archive, whose files hold records of a coarse label, a fine label and a picture."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            names, *parts = (
                _member(archive, f"cifar-100-binary/{name}")
                for name in ("fine_label_names.txt", "train.bin", "test.bin")
            )
        classes = names.decode().split()
        records = [np.frombuffer(part, np.uint8).reshape(-1, _RECORD) for part in parts]
        files = [
            f"{name} {number}"
            for name, part in zip(("train.bin", "test.bin"), records, strict=True)
            for number in range(len(part))
        ]
        whole = np.concatenate(records)
        order = np.lexsort((np.arange(len(whole)), np.array(classes)[whole[:, 1]]))  # by class, then as stored
    except Exception as error:  # which type a damaged archive raises depends on its bytes
        raise ConfigError(
            f"data.source.root: {path} is broken ({error}); expected the official binary archive: fetch it again"
        ) from error
    fine = whole[order, 1]
    counts = {classes[number]: int((fine == number).sum()) for number in dict.fromkeys(fine.tolist())}
    labels = [f"{path.name}: {classes[whole[row, 1]]}, {files[row]}" for row in order]
    status = path.stat()
    pixels = whole[order, 2:].reshape(-1, 3, _SIDE, _SIDE)
    return Collection(_Records(pixels, labels), labels, counts, f"{status.st_size} {status.st_mtime_ns}")


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is no file")
    return file.read()
