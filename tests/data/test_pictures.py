"""Pictures of every size, mode and format become bytes of one size."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from meta_lightning.data import Glyphs
from meta_lightning.data.readers.picture_files import MAX_BYTES
from meta_lightning.data.readers.pictures import PictureReader, scaled
from meta_lightning.errors import ConfigError


def half(size, left, right):
    """A picture whose left half has one colour and whose right half has another."""
    picture = Image.new("RGB", size, right)
    picture.paste(left, (0, 0, size[0] // 2, size[1]))
    return picture


def saved(picture, kind, **options):
    picture.save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


def one(picture, **settings):
    """The pixels of one picture, ``[channels, size, size]``."""
    return PictureReader(**{"image_size": 8, "channels": 3, **settings}).decode([picture])[0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F", "PA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_white_is_white_and_black_is_black_in_every_mode(mode, channels):
    white = {"I;16": 65535, "I": 65535, "F": 1.0}
    for colour, value in (("white", 255), ("black", 0)):
        if mode in white:
            dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
            picture = Image.fromarray(np.full((5, 9), white[mode] if value else 0, dtype))
        else:
            picture = Image.new("RGB", (9, 5), colour).convert("P" if mode == "PA" else mode).convert(mode)
        assert picture.mode == mode
        pixels = one(picture, channels=channels)
        assert pixels.shape == (channels, 8, 8)
        assert (pixels.int() - value).abs().max() <= 1


def test_sixteen_bits_keep_their_greys(tmp_path):
    values = np.array([[0, 257, 257 * 100, 65535]] * 4, np.uint16)
    for kind in ("PNG", "TIFF"):
        Image.fromarray(values).save(tmp_path / f"deep.{kind}")
        assert one(tmp_path / f"deep.{kind}", image_size=4, channels=1)[0, 0].tolist() == [0, 1, 100, 255]


@pytest.mark.parametrize(("array", "range_"), [
    (np.array([[0, 70000]], np.int32), "0 to 70000; expected bytes or 16-bit values from 0 to 65535"),
    (np.array([[-1, 7]], np.int32), "-1 to 7"),
    (np.array([[0, 3.5]], np.float32), "0 to 3.5; expected bytes or floats from 0 to 1"),
    (np.array([[0, np.nan]], np.float32), "nan to nan"),
])  # fmt: skip
def test_values_of_unknown_range_are_refused(tmp_path, array, range_):
    Image.fromarray(array).save(tmp_path / "deep.tif")
    with pytest.raises(ConfigError, match=rf"deep\.tif has values from {range_}.*: convert the picture"):
        one(tmp_path / "deep.tif")


def test_what_is_transparent_becomes_white():
    red = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    red.paste((0, 0, 0, 0), (0, 0, 4, 8))
    red.paste((0, 0, 0, 128), (4, 0, 8, 4))
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30, 255, 0, 0])
    palette.paste(1, (4, 0, 8, 8))
    with_index = Image.open(io.BytesIO(saved(palette, "PNG", transparency=0)))
    assert one(red)[:, 7, 0].tolist() == one(with_index)[:, 7, 0].tolist() == [255] * 3
    assert one(red)[:, 7, 7].tolist() == one(with_index)[:, 7, 7].tolist() == [255, 0, 0]
    assert one(red)[:, 0, 7].tolist() == [127] * 3
    assert one(red, channels=1)[0, 0].tolist() == [255] * 4 + [127] * 4


def test_grey_is_luma_and_colour_stays():
    assert one(Image.new("RGB", (3, 3), (255, 0, 0)), channels=1).unique().tolist() == [76]  # 0.299 of 255
    assert one(Image.new("L", (3, 3), 7))[:, 0, 0].tolist() == [7] * 3
    assert one(Image.new("RGB", (3, 3), (1, 2, 3)), inverted=True)[:, 0, 0].tolist() == [254, 253, 252]


# A picture of 24x8: its outer thirds are black, its middle third is grey.
def wide():
    picture = Image.new("L", (24, 8), 0)
    picture.paste(100, (8, 0, 16, 8))
    return picture


def test_three_ways_to_make_a_picture_square():
    crop, pad, stretch = (one(wide(), channels=1, resize=resize)[0] for resize in ("crop", "pad", "stretch"))
    assert crop[:, 1:7].unique().tolist() == [100]
    assert (pad[[0, 1, 6, 7]] == 255).all()  # 24x8 becomes 8x3, rounded
    assert (pad[3] < 110).all()  # Lanczos' filter overshoots a little
    assert pad[3, 3:5].float().mean() == pytest.approx(100, abs=6)
    assert stretch[:, 0].max() < 10 < 90 < stretch[:, 3].min()
    tall = one(wide().rotate(90, expand=True), channels=1, resize="pad")[0]
    assert torch.equal(tall, torch.rot90(pad))


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2)])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_any_size_has_a_result(size, resize):
    assert one(Image.new("RGB", size), resize=resize).shape == (3, 8, 8)


def test_a_picture_of_the_right_size_keeps_its_pixels():
    pixels = torch.randint(256, (8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for resize in ("stretch", "crop", "pad"):
        assert torch.equal(one(Image.fromarray(pixels.numpy()), resize=resize), pixels.permute(2, 0, 1))


def test_a_picture_is_turned_as_its_exif_data_say():
    picture = half((40, 16), "white", "black")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees clockwise
    turned = one(Image.open(io.BytesIO(saved(picture, "JPEG", exif=exif))), channels=1)[0]
    assert turned[:3].min() > 200
    assert turned[-3:].max() < 50


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_every_format_is_read(tmp_path, kind):
    (tmp_path / "of any name").write_bytes(saved(half((300, 200), (250, 10, 10), (10, 10, 250)), kind))
    pixels = one(tmp_path / "of any name").int()
    assert (pixels[:, 4, 1] - torch.tensor([250, 10, 10])).abs().max() < 12
    assert (pixels[:, 4, 6] - torch.tensor([10, 10, 250])).abs().max() < 12


def test_a_large_jpeg_is_decoded_at_a_reduced_size_without_a_visible_difference():
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((1500, 1000), Image.Resampling.BICUBIC)
    data = saved(photo, "JPEG", quality=95)
    reader = PictureReader(84, resize="crop")
    exact = reader.convert(Image.open(io.BytesIO(data)), "photo").astype(int)
    assert abs(reader.decode_bytes(data, "photo") - exact).mean() < 1.5


@pytest.mark.parametrize("damage", [lambda _: b"", lambda _: b"<html>", lambda data: data[: len(data) // 2]])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_a_picture_that_does_not_decode_is_named(tmp_path, kind, damage):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8))
    (tmp_path / "a b.x").write_bytes(damage(saved(noise, kind)))
    with pytest.raises(ConfigError) as refused:
        one(tmp_path / "a b.x")
    assert str(refused.value).startswith(f"{tmp_path / 'a b.x'} does not decode (")
    assert str(refused.value).endswith("); replace or remove it")
    assert " object at 0x" not in str(refused.value)


def test_what_would_be_handed_to_other_programs_is_refused(tmp_path):
    (tmp_path / "1.png").write_bytes(saved(Image.new("L", (9, 9)), "EPS"))
    with pytest.raises(ConfigError, match=r"1\.png does not decode \(not a picture of a known format\)"):
        one(tmp_path / "1.png")


def test_a_small_file_with_a_huge_picture_is_refused_undecoded(tmp_path):
    data = bytearray(saved(Image.new("1", (8, 8)), "PNG"))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(ConfigError, match=r"bomb\.png (has 60000x60000 pixels|does not decode \(Image size)"):
        one(tmp_path / "bomb.png")


def test_a_file_larger_than_any_picture_is_refused_unread(tmp_path):
    with (tmp_path / "large.bmp").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ConfigError, match=r"large\.bmp declares 268435457 bytes; expected a picture of at most"):
        one(tmp_path / "large.bmp")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.png can't be read \(No such file or directory\)"):
        one(tmp_path / "none.png")


@pytest.mark.parametrize(("settings", "text"), [
    ({"image_size": 0}, "data.source.image_size is 0; expected 1 or more"),
    ({"image_size": 5000}, "data.source.image_size is 5000; expected 1 or more, and at most 4096"),
    ({"channels": 2}, "data.source.channels is 2; expected 1 for grey or 3 for colour"),
    ({"resize": "fit"}, "data.source.resize is 'fit'; expected stretch, crop or pad"),
])  # fmt: skip
def test_settings_out_of_range_are_refused(settings, text):
    with pytest.raises(ConfigError) as refused:
        PictureReader(**{"image_size": 8, **settings})
    assert str(refused.value).startswith(text)


def test_no_pictures_are_an_empty_table():
    assert PictureReader(8).decode([]).shape == (0, 3, 8, 8)


def test_bytes_become_floats_of_the_default_precision():
    torch.testing.assert_close(scaled(torch.tensor([0, 51, 255], dtype=torch.uint8)), torch.tensor([0.0, 0.2, 1.0]))


def test_a_new_letter_has_the_polarity_of_the_training():
    """A letter on paper, dark on white, becomes bright on dark as the letters of the source are."""
    reader = PictureReader(**Glyphs().constants()["reader"]["init_args"])
    paper = Image.new("L", (56, 56), 255)
    paper.paste(0, (20, 10, 30, 46))
    assert reader.decode([paper])[0, 0, 0, 0] == 0
    assert reader.decode([paper]).max() == 255


def write(root, *paths):
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(root / path)


def test_new_class_folders_are_read_with_their_labels(tmp_path):
    write(tmp_path / "mine", "b/2.png", "b/1.png", "a/9.png")
    read = PictureReader(8, channels=1).read(tmp_path / "mine", labelled=True)
    assert read.class_names == ["a", "b"]
    assert read.y.tolist() == [0, 1, 1]
    assert read.ids == ["a/9.png", "b/1.png", "b/2.png"]
    torch.testing.assert_close(read.x[:, 0, 0, 0], torch.tensor([2, 1, 0]) / 255)
    assert read.x.shape == (3, 1, 8, 8)


def test_new_pictures_are_read_from_any_folders_and_alone(tmp_path):
    write(tmp_path / "mine", "2.png", "x/y/1.png")
    reader = PictureReader(8, channels=1)
    read = reader.read(tmp_path / "mine", labelled=False)
    assert read.ids == ["2.png", "x/y/1.png"]
    assert read.y is read.class_names is None
    alone = reader.read(tmp_path / "mine" / "x" / "y" / "1.png", labelled=False)
    assert torch.equal(alone.x, read.x[1:])


def test_new_pictures_that_can_not_be_read_are_refused(tmp_path):
    write(tmp_path / "mine", "train/a/1.png", "test/a/1.png")
    reader = PictureReader(8)
    with pytest.raises(ConfigError, match=r"--support: .*mine has the folders test, train; expected a folder of pict"):
        reader.read(tmp_path / "mine", labelled=True)
    with pytest.raises(ConfigError, match=r"--input: there is no .*none; expected a folder or a zip"):
        reader.read(tmp_path / "none", labelled=False)
    (tmp_path / "mine" / "train" / "a" / "1.png").write_text("no picture")
    with pytest.raises(ConfigError, match=r"mine/train/a/1\.png does not decode"):
        reader.read(tmp_path / "mine", labelled=False)
