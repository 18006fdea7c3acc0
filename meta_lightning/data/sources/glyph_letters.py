"""Draws letters of six scripts with the fonts that matplotlib ships."""

import hashlib
import math
import unicodedata
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import PIL
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont, features
from torch import Tensor
from torch.nn import functional as F

from meta_lightning.console import progress
from meta_lightning.data.readers.pictures import Pictures
from meta_lightning.errors import ConfigError
from meta_lightning.functional import random
from meta_lightning.types import Split

IMAGE_SIZE = 28
# Of two letters of the same shape, the earlier one in this order is kept. A block may hold letters of other scripts
# (the Greek block holds Coptic ones), so a letter's Unicode name has to begin with the script.
_SCRIPTS: dict[Split, dict[str, list[range]]] = {
    "train": {
        "LATIN": [range(0x41, 0x7B)],
        "GREEK": [range(0x370, 0x400)],
        "CYRILLIC": [range(0x400, 0x530)],
    },
    "val": {"GEORGIAN": [range(0x10A0, 0x1100), range(0x2D00, 0x2D30)]},
    "test": {"ARMENIAN": [range(0x530, 0x590)], "LAO": [range(0xE80, 0xF00)]},
}
# The first font has every letter that is drawn. Fonts that hold only symbols are left out, and so is LastResort, which
# draws every letter as a box with the name of its script.
_DEJAVU = [
    *("DejaVuSans", "DejaVuSerif", "DejaVuSansMono"),
    *("DejaVuSans-Bold", "DejaVuSerif-Bold", "DejaVuSansMono-Bold"),
    *("DejaVuSans-Oblique", "DejaVuSerif-Italic", "DejaVuSansMono-Oblique"),
    *("DejaVuSans-BoldOblique", "DejaVuSerif-BoldItalic", "DejaVuSansMono-BoldOblique"),
]
_STIX = ["STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"]
_COMPUTER_MODERN = ["cmr10", "cmb10", "cmss10", "cmti10", "cmtt10", "cmmi10"]
FONTS = [*_DEJAVU, *_STIX, *_COMPUTER_MODERN]
_BOLD = {"cmb10", *(name for name in FONTS if "Bol" in name)}

_FONT_SIZE = 128  # most letters are then larger than in the oversampled picture, so they are reduced, not enlarged
_OVERSAMPLED = 4  # pictures are drawn this many times larger and then reduced
# Letters are compared on a grid of this size. Two letters have the same shape if, in some font that is not bold, less
# than `_MAX_DISTANT_INK` of the ink of each is more than one cell away from the ink of the other. Bold fonts do not
# count, because their thick strokes hide the marks that tell letters apart.
# The threshold lies in a gap between pairs. Below it are equal letters of different scripts, capitals with the shape of
# their small letters, and, nearest to it, Cyrillic KA without and with a stroke (0.0303). Above it are letters that
# differ by a mark; nearest to it are Cyrillic PE and Georgian MAN (0.0313).
_GRID = 32
_MAX_DISTANT_INK = 0.031
# Ranges of the deformations: rotation in degrees, horizontal shear, factor on the ratio of width to height, longer side
# in pixels, shift to the right and down in pixels. With them, classifying by the nearest class mean in pixel space
# reaches 56 % in 5-way 1-shot tasks.
_JITTER = torch.tensor([(-12.0, 12.0), (-0.2, 0.2), (0.8, 1.25), (17.0, 23.0), (-1.5, 1.5), (-1.5, 1.5)])


class _Letter(NamedTuple):
    """A letter with its cropped grey picture in each font that has it.

    Attributes:
        split: The split that the letter's script belongs to.
        character: The letter.
        ink: The pictures, by the name of the font.
    """

    split: Split
    character: str
    ink: dict[str, Image.Image]


def identity() -> str:
    """A checksum of everything that determines the pictures: the fonts, the drawing libraries and this file."""
    digest = hashlib.sha256(f"{PIL.__version__} {features.version('freetype2')}".encode())
    for path in [Path(__file__), *map(_font_file, FONTS)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def draw_letters(examples: int) -> dict[Split, Pictures]:
    """Draws every letter as grey pictures with ink 255 on background 0.

    The examples of a letter cycle through the fonts that have it. Example ``n`` is rotated, sheared, stretched and
    shifted by random amounts that depend only on the letter and ``n``.

    Args:
        examples: Pictures of each letter.

    Returns:
        The pictures of each split. Classes are in the order of the alphabets and have their Unicode names. No two
        classes have the same shape.

    Raises:
        ConfigError: If matplotlib lacks one of its fonts.
    """
    letters = _without_twins(_letters())
    pictures: dict[Split, Pictures] = {}
    for split in _SCRIPTS:
        members = [letter for letter in letters if letter.split == split]
        images = np.stack([_examples(letter, examples) for letter in progress(members, f"Drawing {split}")])
        names = [unicodedata.name(letter.character) for letter in members]
        pictures[split] = {"images": torch.from_numpy(images)[:, :, None], "names": names}
    return pictures


def _font_file(name: str) -> Path:
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    if not path.is_file():
        raise ConfigError(f"no {path.name} in {path.parent}; expected matplotlib with its own fonts: reinstall it")
    return path


def _letters() -> list[_Letter]:
    fonts = {}
    for name in FONTS:
        path = str(_font_file(name))
        # Pillow's other layout engine depends on a library that not every build has.
        font = ImageFont.truetype(path, _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
        fonts[name] = font, FT2Font(path).get_charmap()
    return [
        _Letter(split, chr(code), {name: _ink(chr(code), font) for name, (font, has) in fonts.items() if code in has})
        for split, scripts in _SCRIPTS.items()
        for script, blocks in scripts.items()
        for block in blocks
        for code in block
        if code in fonts[FONTS[0]][1] and _is_letter(chr(code), script)
    ]


def _is_letter(character: str, script: str) -> bool:
    """Whether a character is a letter of a script, and not a mark, a sign or an accented form of another letter."""
    return (
        unicodedata.category(character) in ("Lu", "Ll", "Lo")
        and unicodedata.name(character).startswith(script)
        and not unicodedata.decomposition(character)
    )


def _ink(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    left, top, right, bottom = font.getbbox(character)
    picture = Image.new("L", (math.ceil(right - left), math.ceil(bottom - top)))
    ImageDraw.Draw(picture).text((-left, -top), character, fill=255, font=font)
    return picture.crop(picture.getbbox())


def _masks(ink: Image.Image) -> Tensor:
    """The cells of the grid with ink, bool ``[2, grid, grid]``: once with the letter's proportions, once stretched."""
    scale = _GRID / max(ink.size)
    width, height = (max(1, round(side * scale)) for side in ink.size)
    fitted = Image.new("L", (_GRID, _GRID))
    fitted.paste(ink.resize((width, height), Image.Resampling.BOX), ((_GRID - width) // 2, (_GRID - height) // 2))
    stretched = ink.resize((_GRID, _GRID), Image.Resampling.BOX)
    return torch.from_numpy(np.stack([np.asarray(fitted), np.asarray(stretched)])) > 127


def _without_twins(letters: list[_Letter]) -> list[_Letter]:
    """Keeps the letters that have the shape of no earlier letter, and of each the fonts that draw it differently."""
    masks = [{name: _masks(ink) for name, ink in letter.ink.items()} for letter in letters]
    twins = torch.zeros(len(letters), len(letters), dtype=torch.bool)
    for name in FONTS:
        if name in _BOLD:
            continue
        rows = torch.tensor([number for number, mask in enumerate(masks) if name in mask])
        ink = torch.stack([masks[row][name] for row in rows], 1).float()  # [2, letters, grid, grid]
        distant = 1 - F.max_pool2d(ink, 3, stride=1, padding=1).flatten(2)
        distant_ink = ink.flatten(2) @ distant.mT / ink.sum((2, 3))[..., None]  # [2, letters, letters]
        twins[rows[:, None], rows] |= (torch.maximum(distant_ink, distant_ink.mT) < _MAX_DISTANT_INK).any(0)
    # A twin of a dropped letter is dropped too: what looks like a twin of Latin A looks like Latin A.
    first = ~twins.tril(-1).any(1)
    return [letters[row]._replace(ink=_different(letters[row].ink, masks[row])) for row in first.nonzero()[:, 0]]


def _different(ink: dict[str, Image.Image], masks: dict[str, Tensor]) -> dict[str, Image.Image]:
    # Two fonts may draw a letter alike, for example if an oblique font does not slant it.
    kept = {masks[name].numpy().tobytes(): name for name in reversed(ink)}
    return {name: ink[name] for name in ink if name in kept.values()}


def _examples(letter: _Letter, examples: int) -> np.ndarray:
    """The pictures of a letter, uint8, ``[examples, size, size]``."""
    low, high = _JITTER.unbind(1)
    unit = random.uniform(random.key(ord(letter.character), torch.arange(examples)), len(low))
    jitter = (low + (high - low) * unit).tolist()
    fonts = list(letter.ink.values())
    return np.stack([_picture(fonts[number % len(fonts)], *numbers) for number, numbers in enumerate(jitter)])


def _picture(
    ink: Image.Image, degrees: float, shear: float, ratio: float, side: float, right: float, down: float
) -> np.ndarray:
    """A letter rotated, sheared, stretched and shifted, but never beyond the edges of the picture.

    Args:
        ink: The letter's cropped grey picture.
        degrees: Angle of rotation.
        shear: Horizontal shear.
        ratio: Factor on the ratio of width to height.
        side: Longer side of the result's bounding box, in pixels.
        right: Shift to the right, in pixels.
        down: Shift down, in pixels.

    Returns:
        uint8, ``[size, size]``.
    """
    rotation = np.array([[math.cos(math.radians(degrees)), -math.sin(math.radians(degrees))], [0, 0]])
    rotation[1] = -rotation[0, 1], rotation[0, 0]
    forward = rotation @ np.array([[1, shear], [0, 1]]) @ np.diag([math.sqrt(ratio), 1 / math.sqrt(ratio)])
    box = np.abs(forward) @ ink.size
    forward *= side / box.max()
    margin = (IMAGE_SIZE - box * side / box.max()) / 2
    centre = IMAGE_SIZE / 2 + np.clip([right, down], -margin, margin)
    # Pillow wants the inverse map, from a pixel of the result to its origin.
    inverse = np.linalg.inv(forward * _OVERSAMPLED)
    offset = np.array(ink.size) / 2 - inverse @ (centre * _OVERSAMPLED)
    coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
    large = ink.transform(
        (IMAGE_SIZE * _OVERSAMPLED,) * 2, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
    )
    return np.asarray(large.reduce(_OVERSAMPLED))
