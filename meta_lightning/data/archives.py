"""Pictures in zip archives, read into one tensor."""

import io
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from meta_lightning.errors import ConfigError

# A declared size above this is no drawing; it is refused before anything is unpacked.
_LARGEST_PICTURE = 1 << 20


class Pictures(TypedDict):
    """A table of pictures by class.

    Attributes:
        images: uint8, ``[classes, examples, 1, size, size]``.
        names: The classes' names, sorted.
    """

    images: Tensor
    names: list[str]


def read_pictures(archives: Sequence[Path], size: int) -> Pictures:
    """Reads archives of ``<class path>/<picture>.png`` as grey pictures, inverted: ink 255 on background 0.

    Args:
        archives: Zip files; their classes together make the table.
        size: Height and width that pictures are reduced to, with Lanczos' filter as in the MAML paper's data.

    Returns:
        The pictures; within a class in the order of their file names.

    Raises:
        ConfigError: If an archive is broken, a picture does not decode, or classes differ in their number of pictures.
    """
    classes: dict[str, list[np.ndarray]] = {}
    on_screen = Console().is_terminal
    for archive in archives:
        try:
            with zipfile.ZipFile(archive) as file:
                _check_names(archive, file.namelist())
                entries = sorted(entry.filename for entry in file.infolist() if entry.filename.endswith(".png"))
                for name in track(entries, f"Reading {archive.name}", transient=True, disable=not on_screen):
                    classes.setdefault(name.rpartition("/")[0], []).append(_read(file, name, size))
        except ConfigError:
            raise
        except Exception as error:  # a damaged archive raises whatever its bytes happen to mean
            raise ConfigError(f"{archive} is broken ({error}); expected a whole zip archive: fetch it again") from error
    names = sorted(classes)
    counts = {len(pictures) for pictures in classes.values()}
    if len(counts) != 1:
        raise ConfigError(
            f"classes of {' and '.join(map(str, archives))} have {sorted(counts) or 'no'} pictures; "
            "expected equally many in each: fetch the archives again"
        )
    images = np.stack([np.stack(classes[name]) for name in names])
    return {"images": torch.from_numpy(images)[:, :, None], "names": names}


def _check_names(archive: Path, names: list[str]) -> None:
    """Refuses names that lead out of the archive, or that are given twice."""
    for name in names:
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or not parts[0] or ":" in parts[0] or not name.isprintable():
            shown = name if name.isprintable() else repr(name)
            raise ConfigError(f"{archive}: {shown} is no path inside of an archive; fetch it again")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"{archive}: {twice[0]} is there twice; fetch it again")


def _read(file: zipfile.ZipFile, name: str, size: int) -> np.ndarray:
    if file.getinfo(name).file_size > _LARGEST_PICTURE:
        raise ConfigError(f"{file.filename}: {name} declares {file.getinfo(name).file_size} bytes; expected a picture")
    try:
        picture = Image.open(io.BytesIO(file.read(name)), formats=("PNG",)).convert("L")
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{file.filename}: {name} does not decode ({error}); fetch the archive again") from error
    return 255 - np.asarray(picture)
