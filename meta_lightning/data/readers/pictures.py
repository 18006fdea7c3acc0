"""Turns pictures of any size, mode and format into bytes of one size, alike for training and for new pictures."""

import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, TypedDict

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from meta_lightning.console import notify, printable
from meta_lightning.data.readers.base import NewExamples, Reader, recipe
from meta_lightning.data.readers.picture_files import SUFFIXES, PictureFile, PictureFiles, read_file
from meta_lightning.data.readers.picture_tables import read_arrays, read_list
from meta_lightning.data.readers.table import sort_names
from meta_lightning.errors import ConfigError
from meta_lightning.types import Inputs

Resize = Literal["stretch", "crop", "pad"]
"""How a picture that is not square becomes square, see `PictureReader`."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""The formats that are decoded. Some others would be handed to other programs."""

MAX_PIXELS = 89_478_485
"""The largest picture that is decoded. A small file can hold a picture that fills the memory."""

_MAX_SIDE = 4096  # of the result; a larger one is a slip
# A JPEG is decoded at a reduced size that is still this many times larger than the result, and other large pictures are
# first reduced to this many times its size by a fast filter. Neither can be seen in the result.
_DRAFT, _REDUCING_GAP = 2, 3.0


class Pictures(TypedDict):
    """Pictures, grouped by class.

    Attributes:
        images: uint8, ``[classes, examples, channels, size, size]``.
        names: The names of the classes, in the order of ``images``.
    """

    images: Tensor
    names: list[str]


def scaled(images: Tensor) -> Tensor:
    """The inputs of a net: bytes become floats in [0, 1] of the default precision.

    Example:
        >>> scaled(torch.tensor([0, 51, 255], dtype=torch.uint8))
        tensor([0.0000, 0.2000, 1.0000])
    """
    return images.to(torch.get_default_dtype()) / 255


class PictureReader(Reader):
    """Decodes pictures to bytes of one size. Sources and predictions on new pictures use it alike.

    Pictures are turned as their EXIF orientation says, transparent pixels become white, 16-bit values are divided by
    257, and the first picture of a file with several is used. They are resized with Lanczos' filter.

    Args:
        image_size: Height and width of the result.
        channels: 1 for grey (the luma of ITU-R 601), 3 for colour.
        resize: ``stretch`` changes the proportions of a picture that is not square, ``crop`` cuts out its central
            square, ``pad`` puts it on a white square.
        inverted: Return 255 minus each value, for dark ink on a bright background.

    Raises:
        ConfigError: If ``image_size`` is out of range, or ``channels`` is neither 1 nor 3.

    Example:
        >>> reader = PictureReader(image_size=28, channels=1, resize="crop")
        >>> pictures = reader.decode([Image.new("RGB", (100, 60), "white"), Image.new("L", (28, 28))])
        >>> pictures.shape, pictures[:, 0, 0, 0].tolist()
        (torch.Size([2, 1, 28, 28]), [255, 0])
        >>> PictureReader(**reader.settings()).settings() == reader.settings()
        True
    """

    id_name: ClassVar[str] = "file"

    def __init__(self, image_size: int, channels: int = 3, resize: Resize = "stretch", inverted: bool = False) -> None:
        if not 1 <= image_size <= _MAX_SIDE:
            raise ConfigError(
                f"data.source.image_size is {image_size}; expected 1 or more, and at most {_MAX_SIDE}, for example 28"
            )
        if channels not in (1, 3):
            raise ConfigError(f"data.source.channels is {channels}; expected 1 for grey or 3 for colour")
        if resize not in ("stretch", "crop", "pad"):
            raise ConfigError(f"data.source.resize is {resize!r}; expected stretch, crop or pad")
        self.image_size = image_size
        self.channels = channels
        self.resize: Resize = resize
        self.inverted = inverted

    def settings(self) -> dict[str, Any]:
        """The arguments that make an equal reader, as plain data."""
        return {
            "image_size": self.image_size, "channels": self.channels, "resize": self.resize, "inverted": self.inverted,
        }  # fmt: skip

    def constants(self) -> dict[str, Any]:
        """What `Source.constants` of a source of such pictures returns: how to build the reader, and the scaling."""
        return {"reader": recipe(type(self), **self.settings()), "scale": 1 / 255}

    def read(self, path: Path, *, labelled: bool) -> NewExamples:
        """Reads class folders, or any pictures.

        Args:
            path: A folder or a zip; a CSV file with the columns ``file`` and ``class``; an npz file of bytes ``x`` and
                classes ``y``. Without labels also a single picture. Labelled pictures lie in a folder for each class.
                Without labels, folders have no meaning.
            labelled: Whether to read the classes, too.

        Raises:
            ConfigError: If there are no pictures, one does not decode, or one lies in no class folder.
        """
        key, suffix = "--support" if labelled else "--input", path.suffix.lower()
        is_file = path.is_file()
        if is_file and suffix in (".npz", ".npy"):
            arrays, classes = read_arrays(path, labelled=labelled, key=key)
            return _examples(scaled(self.decode(arrays)), classes, [*map(str, range(len(arrays)))])
        if is_file and suffix in (".csv", ".tsv"):
            listed, classes = read_list(path, labelled=labelled)
            files = [PictureFile(file, "") for file in listed]
            return _examples(self._inputs(PictureFiles(path.parent, files, key), files), classes, listed)
        if not labelled and is_file and suffix in SUFFIXES:
            alone = PictureFiles(path.parent, [PictureFile(path.name, "")], key)
            return _examples(self._inputs(alone, alone.files), [], [str(path)])
        pictures = PictureFiles.of(path, key)
        if not labelled:
            return _examples(self._inputs(pictures, pictures.files), [], [file.path for file in pictures.files])
        groups = pictures.by_class()
        if "" not in groups:
            raise ConfigError(
                f"{key}: {path} has the folders {', '.join(groups)}; expected a folder of pictures for each class: "
                f"name one of them, such as {path / next(iter(groups))}"
            )
        files = [file for name in sorted(groups[""]) for file in groups[""][name]]
        classes = [name for name in sorted(groups[""]) for _ in groups[""][name]]
        return _examples(self._inputs(pictures, files), classes, [file.path for file in files])

    def _inputs(self, pictures: PictureFiles, files: list[PictureFile]) -> Tensor:
        rows: list[np.ndarray] = []
        small: list[str] = []
        with quiet():
            for file in files:
                data, name = pictures.read(file.path), pictures.label(file.path)
                rows.append(self.decode_bytes(data, name))
                width, height = Image.open(io.BytesIO(data)).size
                if min(width, height) < self.image_size:
                    small.append(f"{printable(name)} ({width}x{height})")
        if small:
            notify(
                f"Note: {len(small)} of {len(files)} pictures are smaller than the {self.image_size}x{self.image_size} "
                f"of the training and are enlarged, the first {small[0]}; expected larger ones"
            )
        return scaled(torch.from_numpy(np.stack(rows)))

    def pictures(self, x: Inputs) -> Tensor | None:
        """The inputs in bytes, ``inverted`` undone."""
        assert isinstance(x, Tensor)
        pixels = (x.float() * 255).round().clamp(0, 255).to(torch.uint8)
        return 255 - pixels if self.inverted else pixels

    def decode(self, pictures: Iterable[Path | Image.Image]) -> Tensor:
        """Decodes files or opened pictures.

        Args:
            pictures: Paths of files in one of `FORMATS`, or pictures of Pillow's.

        Returns:
            uint8, ``[pictures, channels, image_size, image_size]``. `scaled` turns it into inputs of a net.

        Raises:
            ConfigError: If a picture does not decode or is too large; the message names the file.
        """
        shape = (self.channels, self.image_size, self.image_size)
        with quiet():
            rows = [
                self.convert(picture, "a picture")
                if isinstance(picture, Image.Image)
                else self.decode_bytes(read_file(picture), str(picture))
                for picture in pictures
            ]
        return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, *shape, dtype=torch.uint8)

    def decode_bytes(self, data: bytes, name: str, formats: tuple[str, ...] = FORMATS) -> np.ndarray:
        """Decodes the content of a file.

        Args:
            data: The content.
            name: The name of the file, for messages.
            formats: The formats of Pillow's that are tried.

        Returns:
            uint8, ``[channels, image_size, image_size]``.

        Raises:
            ConfigError: If the picture does not decode or is too large.
        """
        try:
            picture = Image.open(io.BytesIO(data), formats=formats)
            _check_pixels(picture, name)
            side = _DRAFT * self.image_size
            picture.draft(None, (side, side))
            picture.load()
        except ConfigError:
            raise
        except Exception as error:  # which type a damaged picture raises depends on its bytes
            raise _undecodable(name, error) from error
        return self.convert(picture, name)

    def convert(self, picture: Image.Image, name: str) -> np.ndarray:
        """Turns, flattens and resizes a picture.

        Args:
            picture: The picture, in any of Pillow's modes.
            name: What it is called in messages.

        Returns:
            uint8, ``[channels, image_size, image_size]``.

        Raises:
            ConfigError: If its values can't be told, or if it is too large.
        """
        _check_pixels(picture, name)
        try:
            upright = ImageOps.exif_transpose(picture)
            flat = _flat(upright, name).convert("L" if self.channels == 1 else "RGB")
            pixels = np.asarray(self._resized(flat))
        except ConfigError:
            raise
        except Exception as error:  # as above
            raise _undecodable(name, error) from error
        pixels = pixels[None] if self.channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
        return 255 - pixels if self.inverted else pixels

    def _resized(self, picture: Image.Image) -> Image.Image:
        width, height = picture.size
        size = (self.image_size, self.image_size)
        box = (0.0, 0.0, float(width), float(height))
        if self.resize == "crop":
            side = min(width, height)
            left, top = (width - side) / 2, (height - side) / 2
            box = (left, top, left + side, top + side)
        elif self.resize == "pad":
            factor = self.image_size / max(width, height)
            size = (max(1, round(width * factor)), max(1, round(height * factor)))
        resized = picture.resize(size, Image.Resampling.LANCZOS, box, _REDUCING_GAP)
        if self.resize != "pad":
            return resized
        square = Image.new(picture.mode, (self.image_size, self.image_size), "white")
        square.paste(resized, ((self.image_size - size[0]) // 2, (self.image_size - size[1]) // 2))
        return square


def _examples(x: Tensor, classes: Sequence[str], ids: list[str]) -> NewExamples:
    """Examples of these classes; without targets if there are none."""
    if not classes:
        return NewExamples(x, None, None, ids)
    names = sort_names([*classes])
    numbers = {name: number for number, name in enumerate(names)}
    return NewExamples(x, torch.tensor([numbers[name] for name in classes]), names, ids)


@contextmanager
def quiet() -> Iterator[None]:
    """Silences Pillow's warnings about files. What matters is refused, and what remains concerns nobody."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_pixels(picture: Image.Image, name: str) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ConfigError(
            f"{name} has {width}x{height} pixels; expected at most {MAX_PIXELS} in all: make it smaller, or remove it"
        )


def _undecodable(name: str, error: Exception) -> ConfigError:
    # Pillow's message about an unknown format names an object in memory.
    reason = "not a picture of a known format" if isinstance(error, UnidentifiedImageError) else error
    return ConfigError(f"{name} does not decode ({reason}); replace or remove it")


def _flat(picture: Image.Image, name: str) -> Image.Image:
    """A picture of eight bits a channel without transparency."""
    if picture.mode[0] in "IF":
        return _eight_bits(picture, name)
    if not picture.has_transparency_data:
        return picture
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA"))


def _eight_bits(picture: Image.Image, name: str) -> Image.Image:
    """A grey picture of 16-bit integers, or of floats from 0 to 1, in bytes."""
    values = np.asarray(picture).astype(np.float64)
    low, high, most = values.min(), values.max(), 1.0 if picture.mode == "F" else 65535.0
    if not (low >= 0 and high <= most):  # also true of NaN
        kind = "floats from 0 to 1" if picture.mode == "F" else "16-bit values from 0 to 65535"
        raise ConfigError(f"{name} has values from {low:g} to {high:g}; expected bytes or {kind}: convert the picture")
    return Image.fromarray(np.rint(values * (255 / most)).astype(np.uint8))
