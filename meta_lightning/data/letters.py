"""Letters of six scripts, drawn with the fonts that matplotlib ships."""

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
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from meta_lightning.data.archives import Pictures
from meta_lightning.errors import ConfigError
from meta_lightning.functional import random
from meta_lightning.types import Split

IMAGE_SIZE = 28
# Of two equal letters the one that stands earlier here is kept. The blocks hold letters of other scripts as well
# (Greek that of Coptic), so a letter's own name has to begin with its script.
_SCRIPTS: dict[Split, dict[str, list[range]]] = {
    "train": {
        "LATIN": [range(0x41, 0x7B)],
        "GREEK": [range(0x370, 0x400)],
        "CYRILLIC": [range(0x400, 0x530)],
    },
    "val": {"GEORGIAN": [range(0x10A0, 0x1100), range(0x2D00, 0x2D30)]},
    "test": {"ARMENIAN": [range(0x530, 0x590)], "LAO": [range(0xE80, 0xF00)]},
}
# The first has every letter that is drawn. Left out: fonts of symbols alone, and LastResort, whose every letter is a
# box with the name of its script.
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

_FONT_SIZE = 128  # a letter is then larger than its place in the picture below
_OVERSAMPLED = 4  # pictures are drawn this many times larger, and reduced
# Letters are compared on a grid of this size. Two are one if, in some font that is not bold (thick strokes swallow the
# marks that tell letters apart), less than this part of the ink of each is more than a cell away from the other's.
# The bound lies in a gap between pairs. Below it are the twins of different scripts, capitals of the shape of their
# small letters, and last Cyrillic KA without and with a stroke (0.0303); above it are letters with a mark of their own,
# first Cyrillic PE and Georgian MAN (0.0313).
_GRID = 32
_ALIKE = 0.031
# Bounds of the jitter: degrees, horizontal shear, change of the ratio of width to height, pixels of the longer side,
# and pixels to the right and down. The nearest class mean in pixels then gets 56 % of 5-way 1-shot right.
_JITTER = torch.tensor([(-12.0, 12.0), (-0.2, 0.2), (0.8, 1.25), (17.0, 23.0), (-1.5, 1.5), (-1.5, 1.5)])


class _Letter(NamedTuple):
    """A letter, and its ink (grey, cropped) in each font that has it."""

    split: Split
    character: str
    ink: dict[str, Image.Image]


def identity() -> str:
    """A checksum of all that the pictures depend on: fonts, the libraries that draw, and this file's constants."""
    digest = hashlib.sha256(f"{PIL.__version__} {features.version('freetype2')}".encode())
    for path in [Path(__file__), *map(_font_file, FONTS)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def draw_letters(examples: int) -> dict[Split, Pictures]:
    """Draws every letter as grey pictures, ink 255 on background 0.

    Example ``n`` of a letter takes the n-th font that has it, in a circle, and is turned, sheared, stretched and moved
    by numbers that depend on the letter and ``n`` alone.

    Args:
        examples: Pictures of each letter.

    Returns:
        By split; classes in the order of the alphabets, named as in Unicode. No two have the same shape.

    Raises:
        ConfigError: If matplotlib lacks one of its fonts.
    """
    letters = _without_twins(_letters())
    pictures: dict[Split, Pictures] = {}
    for split in _SCRIPTS:
        members = [letter for letter in letters if letter.split == split]
        shown = track(members, f"Drawing {split}", transient=True, disable=not Console().is_terminal)
        images = np.stack([_examples(letter, examples) for letter in shown])
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
        # Basic layout: the other one depends on a library that not every Pillow has.
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
    """Neither a mark, nor a sign, nor another letter with an accent."""
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
    """Where a letter has ink: as large as fits into the grid, and stretched to fill it; bool ``[2, grid, grid]``."""
    scale = _GRID / max(ink.size)
    width, height = (max(1, round(side * scale)) for side in ink.size)
    fitted = Image.new("L", (_GRID, _GRID))
    fitted.paste(ink.resize((width, height), Image.Resampling.BOX), ((_GRID - width) // 2, (_GRID - height) // 2))
    stretched = ink.resize((_GRID, _GRID), Image.Resampling.BOX)
    return torch.from_numpy(np.stack([np.asarray(fitted), np.asarray(stretched)])) > 127


def _without_twins(letters: list[_Letter]) -> list[_Letter]:
    """The letters that look like none before them, each with the fonts that draw it differently."""
    masks = [{name: _masks(ink) for name, ink in letter.ink.items()} for letter in letters]
    alike = torch.zeros(len(letters), len(letters), dtype=torch.bool)
    for name in FONTS:
        if name in _BOLD:
            continue
        rows = torch.tensor([number for number, mask in enumerate(masks) if name in mask])
        ink = torch.stack([masks[row][name] for row in rows], 1).float()  # [2, letters, grid, grid]
        out_of_reach = 1 - F.max_pool2d(ink, 3, stride=1, padding=1).flatten(2)
        apart = ink.flatten(2) @ out_of_reach.mT / ink.sum((2, 3))[..., None]  # [2, letters, letters]
        alike[rows[:, None], rows] |= (torch.maximum(apart, apart.mT) < _ALIKE).any(0)
    # Also of letters that are dropped themselves: what looks like a twin of Latin A looks like Latin A.
    first = ~alike.tril(-1).any(1)
    return [letters[row]._replace(ink=_different(letters[row].ink, masks[row])) for row in first.nonzero()[:, 0]]


def _different(ink: dict[str, Image.Image], masks: dict[str, Tensor]) -> dict[str, Image.Image]:
    # A font may hold another's shape, as where a letter is not slanted in an oblique one.
    kept = {masks[name].numpy().tobytes(): name for name in reversed(ink)}
    return {name: ink[name] for name in ink if name in kept.values()}


def _examples(letter: _Letter, examples: int) -> np.ndarray:
    """uint8, ``[examples, size, size]``."""
    low, high = _JITTER.unbind(1)
    drawn = random.uniform(random.key(ord(letter.character), torch.arange(examples)), len(low))
    jitter = (low + (high - low) * drawn).tolist()
    fonts = list(letter.ink.values())
    return np.stack([_picture(fonts[number % len(fonts)], *numbers) for number, numbers in enumerate(jitter)])


def _picture(
    ink: Image.Image, degrees: float, shear: float, ratio: float, side: float, right: float, down: float
) -> np.ndarray:
    """A letter turned, sheared, stretched and moved; whole, whatever the numbers."""
    turn = np.array([[math.cos(math.radians(degrees)), -math.sin(math.radians(degrees))], [0, 0]])
    turn[1] = -turn[0, 1], turn[0, 0]
    forth = turn @ np.array([[1, shear], [0, 1]]) @ np.diag([math.sqrt(ratio), 1 / math.sqrt(ratio)])
    box = np.abs(forth) @ ink.size
    forth *= side / box.max()
    room = (IMAGE_SIZE - box * side / box.max()) / 2
    centre = IMAGE_SIZE / 2 + np.clip([right, down], -room, room)
    # Pillow asks where a pixel of the result comes from.
    back = np.linalg.inv(forth * _OVERSAMPLED)
    start = np.array(ink.size) / 2 - back @ (centre * _OVERSAMPLED)
    coefficients = (*back[0], start[0], *back[1], start[1])
    large = ink.transform(
        (IMAGE_SIZE * _OVERSAMPLED,) * 2, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
    )
    return np.asarray(large.reduce(_OVERSAMPLED))
