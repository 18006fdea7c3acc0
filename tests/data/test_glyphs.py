"""Letters drawn with matplotlib's own fonts."""

import hashlib
import subprocess
import sys
import unicodedata
from collections import Counter

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from meta_lightning.data import Glyphs
from meta_lightning.data.episodes import keys
from meta_lightning.data.readers.pictures import PictureReader
from meta_lightning.data.sources import glyph_letters as letters
from meta_lightning.data.sources import glyphs as source_module
from meta_lightning.errors import ConfigError
from meta_lightning.types import EpisodeShape

SPLITS = ("train", "val", "test")
_DIGEST = """
import hashlib, torch
from meta_lightning.data import Glyphs
torch.manual_seed(99)
source = Glyphs(2)
for split in ("train", "val", "test"):
    table = source.load(split)
    print(hashlib.sha256(table.x.numpy().tobytes() + " ".join(table.names).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The splits, drawn once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        source = Glyphs()
        return {split: source.load(split) for split in SPLITS}


@pytest.fixture(scope="module")
def every_letter():
    return letters._letters()


@pytest.fixture(scope="module")
def letter_a(every_letter):
    [found] = [letter for letter in every_letter if letter.character == "A"]
    return found


def classes_of(tables, characters):
    """Which of these letters are classes, in any split."""
    names = {name for table in tables.values() for name in table.names}
    return [character for character in characters if unicodedata.name(character) in names]


def test_every_split_has_its_scripts(tables):
    scripts = {split: Counter(name.split()[0] for name in tables[split].names) for split in SPLITS}
    assert scripts == {
        "train": {"LATIN": 41, "GREEK": 45, "CYRILLIC": 103},
        "val": {"GEORGIAN": 101},
        "test": {"ARMENIAN": 48, "LAO": 34},
    }


@pytest.mark.parametrize("split", SPLITS)
def test_pictures_are_whole_letters(tables, split):
    images = tables[split].x.unflatten(0, (-1, 20))
    assert images.dtype == torch.uint8
    assert images.shape == (len(tables[split].names), 20, 1, 28, 28)
    ink = images.flatten(2).float() / 255
    assert ink.amax(2).min() > 0.9  # strokes are a pixel wide and more, and white
    assert ink.sum(2).min() > 15
    assert ink.mean(2).max() < 0.5
    # A picture's edge has no more of a letter than the blur of its outline.
    inside = torch.zeros(28, 28, dtype=torch.bool)
    inside[1:-1, 1:-1] = True
    assert ink[..., ~inside.flatten()].max() < 0.1


def test_no_picture_stands_twice_in_the_data(tables):
    pictures = Counter(image.numpy().tobytes() for table in tables.values() for image in table.x)
    assert set(pictures.values()) == {1}
    assert len(pictures) == (189 + 101 + 82) * 20


def test_no_letter_stands_twice_in_the_data(tables):
    names = [name for table in tables.values() for name in table.names]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("twins", "kept"),
    [
        ("A\N{GREEK CAPITAL LETTER ALPHA}\N{CYRILLIC CAPITAL LETTER A}", "A"),
        # Small and capital, since a letter's size is not kept; the last two are Armenian.
        (
            "Oo\N{GREEK SMALL LETTER OMICRON}\N{CYRILLIC SMALL LETTER O}"
            "\N{ARMENIAN CAPITAL LETTER OH}\N{ARMENIAN SMALL LETTER OH}",
            "O",
        ),
        ("h\N{CYRILLIC SMALL LETTER SHHA}\N{ARMENIAN SMALL LETTER HO}", "h"),
        ("n\N{ARMENIAN SMALL LETTER VO}", "n"),
        ("S\N{CYRILLIC CAPITAL LETTER DZE}\N{ARMENIAN CAPITAL LETTER TIWN}", "S"),
        ("\N{GREEK CAPITAL LETTER PHI}\N{ARMENIAN CAPITAL LETTER PIWR}", "\N{GREEK CAPITAL LETTER PHI}"),
        # In italics alone.
        ("m\N{CYRILLIC SMALL LETTER TE}", "m"),
        # Equal but for their proportions.
        ("\N{CYRILLIC CAPITAL LETTER CHE}\N{GEORGIAN CAPITAL LETTER QAR}", "\N{CYRILLIC CAPITAL LETTER CHE}"),
    ],
)
def test_equal_letters_are_one_class_that_of_the_first_script(tables, twins, kept):
    assert classes_of(tables, twins) == [kept]


# Bold strokes swallow the marks of some of them.
@pytest.mark.parametrize(
    "pair", ["EF", "OQ", "CG", "PR", "Aa", "Ee", "il", "bh", "\N{LAO LETTER KO}\N{LAO LETTER NGO}"]
)
def test_letters_that_differ_stay_apart(tables, pair):
    expected = [*pair] if pair != "il" else ["i"]  # a small l is a capital I
    assert classes_of(tables, pair) == expected


# Accented and combined letters, a letter of another script in the Greek block, a modifier, a ligature and a sign.
def test_what_is_no_letter_of_its_own_is_no_class(tables):
    others = [
        "\N{CYRILLIC SMALL LETTER SHORT I}",
        "\N{GREEK SMALL LETTER ALPHA WITH TONOS}",
        "\N{COPTIC CAPITAL LETTER SHEI}",
        "\N{MODIFIER LETTER GEORGIAN NAR}",
        "\N{ARMENIAN SMALL LIGATURE ECH YIWN}",
        "\N{LAO VOWEL SIGN I}",
        "\N{LAO KO LA}",
    ]
    assert classes_of(tables, others) == []


@pytest.mark.parametrize("name", letters._DEJAVU)
def test_no_letter_is_the_box_of_an_absent_one(every_letter, name):
    absent = letters._ink("\U000f1234", ImageFont.truetype(str(letters._font_file(name)), letters._FONT_SIZE))
    drawn = [letter.ink[name] for letter in every_letter if name in letter.ink]
    assert len(drawn) > 300
    assert absent not in drawn


def test_examples_go_through_the_fonts_of_a_letter(letter_a):
    assert list(letter_a.ink) == letters.FONTS
    inks = {name: letters._picture(ink, 0.0, 0.0, 1.0, 22.0, 0.0, 0.0).tobytes() for name, ink in letter_a.ink.items()}
    assert len(set(inks.values())) == len(letters.FONTS)


def test_examples_take_the_fonts_in_a_circle(letter_a, monkeypatch):
    still = torch.tensor([0.0, 0.0, 1.0, 22.0, 0.0, 0.0])
    monkeypatch.setattr(letters, "_JITTER", torch.stack([still, still], 1))
    fonts = list(letter_a.ink.values())
    expected = [letters._picture(ink, *still.tolist()) for ink in [*fonts, *fonts[:2]]]
    assert np.array_equal(letters._examples(letter_a, len(expected)), np.stack(expected))


def test_fonts_that_share_a_shape_count_once(letter_a):
    sans, serif = letter_a.ink["DejaVuSans"], letter_a.ink["DejaVuSerif"]
    ink = {"one": sans, "other": serif, "again": sans.copy()}
    masks = {name: letters._masks(picture) for name, picture in ink.items()}
    assert list(letters._different(ink, masks)) == ["one", "other"]


def centre(picture):
    """Column and row of the middle of the ink."""
    box = Image.fromarray((picture > 127).astype(np.uint8)).getbbox()
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]


# A bar with a foot to the right: turns, mirror images and stretches can be told apart.
@pytest.fixture
def foot():
    ink = Image.new("L", (60, 120))
    draw = ImageDraw.Draw(ink)
    draw.rectangle((0, 0, 19, 119), fill=255)
    draw.rectangle((0, 100, 59, 119), fill=255)
    return ink


def test_a_letter_that_is_not_deformed_is_centred_and_as_large_as_asked(foot):
    picture = letters._picture(foot, 0.0, 0.0, 1.0, 20.0, 0.0, 0.0)
    assert centre(picture) == pytest.approx((14, 14, 10, 20), abs=0.6)
    assert picture[22, 17] == 255
    assert picture[6, 17] == 0


def test_a_letter_moves_right_and_down_but_never_out_of_the_picture(foot):
    assert centre(letters._picture(foot, 0.0, 0.0, 1.0, 20.0, 2.0, 3.0))[:2] == pytest.approx((16, 17), abs=0.6)
    far = letters._picture(foot, 0.0, 0.0, 1.0, 20.0, 50.0, -50.0)
    assert centre(far) == pytest.approx((23, 10, 10, 20), abs=0.6)


def test_a_letter_is_turned_clockwise_sheared_and_stretched(foot):
    quarter = letters._picture(foot, 90.0, 0.0, 1.0, 20.0, 0.0, 0.0)
    upright = letters._picture(foot, 0.0, 0.0, 1.0, 20.0, 0.0, 0.0)
    assert np.abs(np.rot90(upright, -1).astype(int) - quarter).mean() < 5
    wide = centre(letters._picture(foot, 0.0, 0.0, 4.0, 20.0, 0.0, 0.0))
    assert wide[2] / wide[3] == pytest.approx(2, rel=0.1)
    sheared = letters._picture(foot, 0.0, -0.3, 1.0, 20.0, 0.0, 0.0) > 127
    assert sheared[6].nonzero()[0].mean() > sheared[20].nonzero()[0].min() + 2


def test_more_examples_begin_with_the_fewer(letter_a):
    assert np.array_equal(letters._examples(letter_a, 9)[:5], letters._examples(letter_a, 5))


def test_another_process_draws_the_very_same(tables, tmp_path):
    """Two examples of each: that more begin with the fewer is tested above."""
    expected = []
    for split in SPLITS:
        data = tables[split].x.unflatten(0, (-1, 20))[:, :2].numpy().tobytes() + " ".join(tables[split].names).encode()
        expected.append(hashlib.sha256(data).hexdigest())
    environment = {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "5"}
    environment["OMP_NUM_THREADS"] = "1"  # two would wait for each other where another test runs beside
    other = subprocess.run([sys.executable, "-c", _DIGEST], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.split() == expected


@pytest.fixture
def drawn(cache_folder, monkeypatch):
    """Stands in for the drawing: notes how many examples were asked for."""
    asked = []

    def draw_letters(examples):
        asked.append(examples)
        shape = (2, examples, 1, 28, 28)
        return {
            split: {
                "images": torch.randint(256, shape, generator=torch.Generator().manual_seed(number)).byte(),
                "names": [f"{split} {letter}" for letter in "ab"],
            }
            for number, split in enumerate(SPLITS)
        }

    monkeypatch.setattr(source_module, "draw_letters", draw_letters)
    return asked


def test_letters_are_drawn_once_for_each_number_of_examples(drawn):
    for examples in (3, 3, 4):
        Glyphs(examples).prepare()
        assert Glyphs(examples).load("val").counts.unique().tolist() == [examples]
    assert drawn == [3, 4]


@pytest.mark.parametrize("what", ["Pillow", "constants or fonts"])
def test_letters_are_drawn_anew_with_other_libraries_or_fonts(drawn, monkeypatch, what, tmp_path):
    Glyphs(3).prepare()
    if what == "Pillow":
        monkeypatch.setattr("PIL.__version__", "0.1")
    else:
        (tmp_path / "font.ttf").write_bytes(b"another")
        monkeypatch.setattr(letters, "_font_file", lambda name: tmp_path / "font.ttf")
    Glyphs(3).prepare()
    assert drawn == [3, 3]


def test_the_fingerprint_is_that_of_the_pictures(drawn, monkeypatch):
    expected = Glyphs(3).fingerprint()
    monkeypatch.setattr("PIL.__version__", "0.1")
    assert Glyphs(3).fingerprint() == expected
    changed = source_module.draw_letters(3)
    changed["test"]["images"][1, 2, 0, 5, 6] ^= 1
    monkeypatch.setattr(source_module, "draw_letters", lambda examples: changed)
    monkeypatch.setattr("PIL.__version__", "0.2")
    assert Glyphs(3).fingerprint() != expected
    assert Glyphs(4).fingerprint() != expected


def test_constructing_draws_nothing(drawn):
    Glyphs()
    assert drawn == []


def test_a_picture_in_two_splits_is_refused(drawn, monkeypatch):
    shared = source_module.draw_letters(3)
    shared["test"]["images"][1, 2] = shared["train"]["images"][0, 1]
    monkeypatch.setattr(source_module, "draw_letters", lambda examples: shared)
    with pytest.raises(ConfigError, match="'train' and 'test' share a picture: 'train a' and 'test b'"):
        Glyphs(3).load("val")


@pytest.mark.parametrize("examples", [0, -2])
def test_no_examples_are_refused(examples):
    with pytest.raises(ConfigError) as refused:
        Glyphs(examples)
    assert str(refused.value) == f"data.source.examples is {examples}; expected 1 or more, for example 20"


def test_a_matplotlib_without_its_fonts_is_refused(cache_folder, monkeypatch, tmp_path):
    monkeypatch.setattr(matplotlib, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(ConfigError) as refused:
        Glyphs().prepare()
    assert str(refused.value) == (
        f"no DejaVuSans.ttf in {tmp_path / 'fonts' / 'ttf'}; expected matplotlib with its own fonts: reinstall it"
    )


def test_constants_say_how_to_make_a_picture_alike():
    assert Glyphs().constants() == PictureReader(28, channels=1, inverted=True).constants()


def test_nearest_class_mean_in_pixels_is_as_good_as_known(tables):
    shape = EpisodeShape(ways=5, shots=1, queries=15)
    tables["test"].check(shape)
    task = tables["test"].draw(keys(0, "test", torch.arange(600)), shape)
    known, asked = (tables["test"].preprocess(part.x).flatten(2) for part in (task.support, task.query))
    right = torch.cdist(asked, known).argmin(-1) == task.query.y
    assert right.float().mean().item() == pytest.approx(0.561, abs=0.02)
