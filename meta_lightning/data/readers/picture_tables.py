"""Pictures that a CSV file lists, or that are arrays of numpy's."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from meta_lightning.console import printable
from meta_lightning.data.readers.array_files import ArrayFiles, Place, read_classes
from meta_lightning.data.readers.rows import Rows
from meta_lightning.errors import ConfigError

_CHANNELS = (1, 3, 4)


def read_list(path: Path, *, labelled: bool) -> tuple[list[str], list[str]]:
    """The pictures that a CSV file lists: the columns ``file`` and ``class``.

    Args:
        path: The CSV file.
        labelled: Whether classes are needed.

    Returns:
        The paths of the pictures, as the file has them, and their classes; no classes if they are not needed.

    Raises:
        ConfigError: If a column is missing, or a picture does not exist or is named by more than one row.
    """
    rows = Rows.read(path)
    for name in ("file", *["class"] * labelled):
        rows.need(name)
    files = rows.texts("file")
    known: dict[str, int] = {}
    for number, file in zip(rows.numbers, files, strict=True):
        if not (path.parent / file).is_file():
            raise ConfigError(
                f"{path}: row {number}: there is no {printable(str(path.parent / file))}; expected paths of pictures "
                "from the folder of the list: correct it, or remove the row"
            )
        if labelled and (earlier := known.setdefault(str(PurePosixPath(file)), number)) != number:
            raise ConfigError(f"{path}: rows {earlier} and {number} are both of {printable(file)}; remove one of them")
    return files, rows.texts("class") if labelled else []


def read_arrays(path: Path, *, labelled: bool, key: str) -> tuple[list[Image.Image], Sequence[str]]:
    """The pictures of the array ``x`` in an npz or npy file, and their classes in the array ``y``.

    Args:
        path: The file.
        labelled: Whether classes are needed.
        key: The setting that names the file, for messages.

    Raises:
        ConfigError: If there is no such array, or ``x`` holds no pictures.
    """
    files = ArrayFiles(path, key)
    array, place = files.read("x"), files.place("x")
    pictures = [Image.fromarray(picture) for picture in _channels_last(array, place)]
    return pictures, [*map(str, read_classes(files, "y", len(array), "x").tolist())] if labelled else []


def _channels_last(array: np.ndarray, place: Place) -> np.ndarray:
    """Pictures in bytes, ``[pictures, height, width]`` or ``[pictures, height, width, channels]``."""
    if array.dtype != np.uint8:
        raise ConfigError(f"{place} holds {array.dtype}; expected pictures in bytes (uint8, from 0 to 255): convert it")
    if array.ndim == 4 and array.shape[3] not in _CHANNELS and array.shape[1] in _CHANNELS:
        array = np.moveaxis(array, 1, 3)
    fits = array.ndim == 3 or (array.ndim == 4 and array.shape[3] in _CHANNELS)
    if not fits or 0 in array.shape:
        raise ConfigError(
            f"{place} has shape {[*array.shape]}; expected pictures [pictures, height, width], with 1, 3 or 4 channels "
            "before or after height and width"
        )
    return np.ascontiguousarray(array[..., 0] if array.ndim == 4 and array.shape[3] == 1 else array)
