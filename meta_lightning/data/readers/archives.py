"""Reads the drawings of zip archives into one tensor."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from meta_lightning.console import progress
from meta_lightning.data.readers.picture_files import check_names
from meta_lightning.data.readers.pictures import PictureReader, Pictures, quiet
from meta_lightning.errors import ConfigError

# Bytes of an unpacked PNG. Drawings are far smaller, and a larger entry is refused before it is unpacked.
_MAX_PICTURE_BYTES = 1 << 20


def read_pictures(archives: Sequence[Path], reader: PictureReader) -> Pictures:
    """Reads archives of ``<class path>/<picture>.png`` whose classes have equally many pictures.

    Args:
        archives: Zip files. The result holds the classes of all of them.
        reader: Decodes the pictures.

    Returns:
        The pictures. Classes are sorted by name, the pictures of a class by file name.

    Raises:
        ConfigError: If an archive is broken, a picture does not decode, there are no pictures, or classes differ in
            their number of pictures.
    """
    classes: dict[str, list[np.ndarray]] = {}
    for archive in archives:
        try:
            with zipfile.ZipFile(archive) as file, quiet():
                check_names(archive, file.namelist())
                entries = sorted(entry.filename for entry in file.infolist() if entry.filename.endswith(".png"))
                for name in progress(entries, f"Reading {archive.name}"):
                    classes.setdefault(name.rpartition("/")[0], []).append(_read(file, name, reader))
        except ConfigError:
            raise
        except Exception as error:  # which type a damaged archive raises depends on its bytes
            raise ConfigError(f"{archive} is broken ({error}); expected a whole zip archive: fetch it again") from error
    names = sorted(classes)
    counts = {len(pictures) for pictures in classes.values()}
    if len(counts) != 1:
        raise ConfigError(
            f"classes of {' and '.join(map(str, archives))} have {sorted(counts) or 'no'} pictures; "
            "expected equally many in each: fetch the archives again"
        )
    images = np.stack([np.stack(classes[name]) for name in names])
    return {"images": torch.from_numpy(images), "names": names}


def _read(file: zipfile.ZipFile, name: str, reader: PictureReader) -> np.ndarray:
    size = file.getinfo(name).file_size
    if size > _MAX_PICTURE_BYTES:
        raise ConfigError(
            f"{file.filename}: {name} declares {size} bytes; expected a picture of at most {_MAX_PICTURE_BYTES}: "
            "fetch the archive again"
        )
    return reader.decode_bytes(file.read(name), f"{file.filename}: {name}", ("PNG",))
