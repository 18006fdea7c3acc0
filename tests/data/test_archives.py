"""Pictures read from zip archives, whole and broken."""

import io
import zlib

import pytest
import torch
from PIL import Image

from meta_lightning.data.readers.archives import read_pictures
from meta_lightning.data.readers.pictures import PictureReader
from meta_lightning.errors import ConfigError


def ink(size):
    """The reader of Omniglot's drawings."""
    return PictureReader(size, channels=1, inverted=True)


@pytest.fixture
def dot(png):
    """A drawing of one dot, on 6x6 pixels."""

    def draw(row, column):
        ink = torch.zeros(6, 6, dtype=torch.uint8)
        ink[row, column] = 1
        return png(ink)

    return draw


def test_pictures_are_sorted_whatever_the_order_in_the_archive(tmp_path, write_zip, dot):
    contents = {
        "set/b/2.png": dot(1, 1),
        "set/a/1.png": dot(2, 0),
        "set/b/1.png": dot(1, 0),
        "set/a/2.png": dot(2, 1),
        "set/readme.txt": b"no picture",
    }
    read = read_pictures([write_zip(tmp_path / "set.zip", contents)], ink(6))
    assert read["names"] == ["set/a", "set/b"]
    assert read["images"].shape == (2, 2, 1, 6, 6)
    assert read["images"].nonzero().tolist() == [[0, 0, 0, 2, 0], [0, 1, 0, 2, 1], [1, 0, 0, 1, 0], [1, 1, 0, 1, 1]]


def test_ink_is_255_on_background_0(tmp_path, write_zip, dot):
    images = read_pictures([write_zip(tmp_path / "set.zip", {"a/1.png": dot(3, 4)})], ink(6))["images"]
    assert images.dtype == torch.uint8
    assert images.sum() == 255
    assert images[0, 0, 0, 3, 4] == 255


def test_classes_of_several_archives_make_one_table(tmp_path, write_zip, dot):
    archives = [
        write_zip(tmp_path / "one.zip", {"z/1.png": dot(0, 0), "b/1.png": dot(0, 1)}),
        write_zip(tmp_path / "two.zip", {"a/1.png": dot(0, 2)}),
    ]
    read = read_pictures(archives, ink(6))
    assert read["names"] == ["a", "b", "z"]
    assert read["images"].argmax(-1).amax((1, 2, 3)).tolist() == [2, 1, 0]


def test_pictures_are_reduced_to_the_size_asked_for(tmp_path, write_zip, png):
    half = torch.zeros(105, 105, dtype=torch.uint8)
    half[:, :52] = 1
    images = read_pictures([write_zip(tmp_path / "set.zip", {"a/1.png": png(half)})], ink(28))["images"]
    assert images.shape == (1, 1, 1, 28, 28)
    # The left half is inked; the filter reaches three pixels to either side of the edge at 13.9.
    assert (images[..., :10] == 255).all()
    assert (images[..., 18:] == 0).all()


def test_colour_is_read_as_grey(tmp_path, write_zip):
    file = io.BytesIO()
    Image.new("RGB", (2, 2), (255, 0, 0)).save(file, "PNG")
    images = read_pictures([write_zip(tmp_path / "set.zip", {"a/1.png": file.getvalue()})], ink(2))["images"]
    assert images.unique().tolist() == [255 - 76]  # ITU-R 601: red is 0.299 of 255


def test_something_else_than_a_zip_is_refused(tmp_path):
    (tmp_path / "set.zip").write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(ConfigError, match=r"set\.zip is broken \(.+\); expected a whole zip archive: fetch it again"):
        read_pictures([tmp_path / "set.zip"], ink(6))


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_truncated_zip_is_refused(tmp_path, write_zip, dot, part):
    archive = write_zip(tmp_path / "set.zip", {f"a/{number}.png": dot(0, number) for number in range(6)})
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ConfigError, match=r"set\.zip is broken"):
        read_pictures([archive], ink(6))


def test_a_zip_with_a_flipped_byte_is_refused(tmp_path, write_zip, dot):
    archive = write_zip(tmp_path / "set.zip", {"a/1.png": dot(0, 0)})
    whole = bytearray(archive.read_bytes())
    whole[whole.index(b"IDAT") + 6] ^= 0xFF
    archive.write_bytes(whole)
    with pytest.raises(ConfigError, match=r"set\.zip is broken \(Bad CRC-32"):
        read_pictures([archive], ink(6))


def test_a_missing_archive_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.zip is broken \(.*No such file"):
        read_pictures([tmp_path / "absent.zip"], ink(6))


@pytest.mark.parametrize("damage", [lambda _: b"", lambda _: b"no PNG", lambda data: data[:45]])
def test_a_picture_that_does_not_decode_is_named(tmp_path, write_zip, dot, damage):
    contents = {"set/a/1.png": dot(0, 0), "set/a/2.png": damage(dot(0, 1))}
    archive = write_zip(tmp_path / "set.zip", contents)
    with pytest.raises(ConfigError, match=r"set\.zip: set/a/2\.png does not decode \(.+\); replace or remove it"):
        read_pictures([archive], ink(6))


def test_classes_of_unequal_size_are_refused(tmp_path, write_zip, dot):
    contents = {"a/1.png": dot(0, 0), "b/1.png": dot(0, 0), "b/2.png": dot(0, 1)}
    archive = write_zip(tmp_path / "set.zip", contents)
    with pytest.raises(ConfigError, match=r"set\.zip have \[1, 2\] pictures; expected equally many in each"):
        read_pictures([archive], ink(6))


def test_an_archive_without_pictures_is_refused(tmp_path, write_zip):
    archive = write_zip(tmp_path / "set.zip", {"a/1.txt": b""})
    with pytest.raises(ConfigError, match=r"set\.zip have no pictures"):
        read_pictures([archive], ink(6))


def test_an_oversized_picture_is_refused_unread(tmp_path, write_zip, monkeypatch):
    archive = write_zip(tmp_path / "set.zip", {"a/1.png": bytes(2**20 + 1)})
    monkeypatch.setattr(zlib, "decompressobj", None)  # unpacking would fail in another way
    with pytest.raises(
        ConfigError, match=r"set\.zip: a/1\.png declares 1048577 bytes; expected a picture of at most 1048576: fetch"
    ):
        read_pictures([archive], ink(6))
