"""Broken zips and pictures: named, and never unpacked outside of their folder."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from .inputs import FLIPS, config, examples, flipped, run

# What Lightning warns of (few workers, short runs) is no error for people either.
pytestmark = pytest.mark.filterwarnings("default")


def picture(kind: str = "PNG", mode: str = "1") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (9, 9), 1).save(file, kind)
    return file.getvalue()


def packed(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return file.getvalue()


MEMBERS = [(f"images_background/Latin/character{n:02}/{n:04}_01.png", picture()) for n in range(3)]
WHOLE = packed(MEMBERS)


def fields(change: Callable[[bytearray, int, int], None]) -> bytes:
    """The archive with the headers of its first member changed: the local one, and that in the directory."""
    spoilt = bytearray(WHOLE)
    change(spoilt, 0, spoilt.index(b"PK\x01\x02"))
    return bytes(spoilt)


def refuse_zip(data: bytes, tmp_path: Path) -> str:
    """The message about an archive: it names it, or says that it is not the official one."""
    folder = tmp_path / "zips"
    folder.mkdir(exist_ok=True)
    (folder / "images_background.zip").write_bytes(data)
    (folder / "images_evaluation.zip").write_bytes(packed([]))
    settings = config("protonet")
    settings["data"]["source"]["init_args"] = {"root": str(folder), "download": False}
    Path("case.yaml").write_text(yaml.safe_dump(settings))
    code, message = run(["fit", "--config", "case.yaml"])
    assert code == 2
    assert "images_background.zip" in message or f"are not in {folder}" in message
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "images_background.zip": data,
        "images_evaluation.zip": packed([]),
    }
    assert {path.name for path in tmp_path.iterdir()} <= {"here", "zips", "cache"}, "unpacked outside of its folder"
    return message


@pytest.mark.parametrize("name", ["a\nb/1.png", "a\x1b[2J/1.png"], ids=["line end", "escape"])
def test_a_name_that_would_spoil_the_message_is_quoted(tmp_path: Path, name: str) -> None:
    message = refuse_zip(packed([*MEMBERS, (name, b"no picture")]), tmp_path)
    assert message.count("\n") == 1
    assert "\x1b" not in message


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    data = packed([*MEMBERS, ("é.png", picture())]).replace("é".encode(), b"\xff\xff")
    assert "images_background.zip is broken (" in refuse_zip(data, tmp_path)


def test_a_damaged_lzma_stream_is_refused(tmp_path: Path) -> None:
    data = bytearray(packed([(MEMBERS[0][0], bytes(200))], zipfile.ZIP_LZMA))
    start = 30 + len(MEMBERS[0][0])
    data[start + 4] = 0xFF  # the first byte of its properties
    assert "images_background.zip" in refuse_zip(bytes(data), tmp_path)


@examples(3)
@given(
    st.binary(max_size=200) | st.binary(max_size=50).map(lambda data: b"PK\x03\x04" + data + b"PK\x05\x06" + bytes(18))
)
def test_random_bytes_are_no_zip(tmp_path: Path, data: bytes) -> None:
    assert "images_background.zip is broken (" in refuse_zip(data, tmp_path) or zipfile.is_zipfile(io.BytesIO(data))


@examples(3)
@given(st.integers(0, len(WHOLE) - 1))
def test_a_truncated_zip_is_named(tmp_path: Path, size: int) -> None:
    assert "images_background.zip is broken (" in refuse_zip(WHOLE[:size], tmp_path)


@examples(3)
@given(FLIPS, st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
def test_flipped_bytes_of_a_zip_are_refused(tmp_path: Path, flips: list[tuple[int, int]], method: int) -> None:
    refuse_zip(flipped(packed(MEMBERS, method), flips), tmp_path)


@pytest.mark.parametrize(
    "name",
    ["../out.png", "images/../../out.png", "/out.png", "//server/out.png", "C:/out.png", "C:\\out.png", "..\\out.png",
     "a\\..\\..\\out.png", "~/../out.png", "../out.txt"],
)  # fmt: skip
def test_members_that_lead_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    message = refuse_zip(packed([*MEMBERS, (name, picture())]), tmp_path)
    assert f"images_background.zip: {name}" in message


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    message = refuse_zip(packed([*MEMBERS, MEMBERS[0]]), tmp_path)
    assert f"images_background.zip: {MEMBERS[0][0]}" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z, local, entry: struct.pack_into("<H", z, entry + 8, 1) or struct.pack_into("<H", z, local + 6, 1),
         "is encrypted"),
        (lambda z, local, entry: struct.pack_into("<I", z, entry + 16, 7) or struct.pack_into("<I", z, local + 14, 7),
         "Bad CRC-32"),
        (lambda z, local, entry: struct.pack_into("<I", z, entry + 24, 2**31 - 1), "declares 2147483647 bytes"),
        (lambda z, local, entry: struct.pack_into("<I", z, entry + 24, 2**20 + 1), "declares 1048577 bytes"),
        (lambda z, local, entry: struct.pack_into("<I", z, entry + 24, 10), "images_background.zip is broken (Bad CRC"),
        (lambda z, local, entry: struct.pack_into("<I", z, entry + 24, 0), "images_background.zip is broken (Bad CRC"),
        (lambda z, local, entry: struct.pack_into("<I", z, entry + 20, 0), "images_background.zip"),
        (lambda z, local, entry: struct.pack_into("<I", z, entry + 42, 2**31), "images_background.zip"),
        (lambda z, local, entry: struct.pack_into("<H", z, entry + 10, 99) or struct.pack_into("<H", z, local + 8, 99),
         "compression"),
    ],
    ids=["encrypted", "CRC", "bomb", "large", "short", "empty", "no stream", "offset", "method"],
)  # fmt: skip
def test_headers_that_lie_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    assert message in refuse_zip(fields(change), tmp_path)


@examples(3)
@given(
    st.sampled_from([b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
    | st.builds(lambda data, flips: flipped(data, flips), st.sampled_from([picture(), picture(mode="P")]), FLIPS)
    | st.builds(lambda data, size: data[:size], st.sampled_from([picture(), picture(mode="RGB")]), st.integers(0, 60))
    | st.binary(max_size=40).map(lambda data: picture()[:16] + data + picture()[16:])
)
def test_a_picture_that_does_not_decode_is_named(tmp_path: Path, data: bytes) -> None:
    message = refuse_zip(packed([*MEMBERS, ("images_background/Latin/character09/0009_01.png", data)]), tmp_path)
    assert "character09/0009_01.png" in message or f"are not in {tmp_path / 'zips'}" in message


@pytest.mark.parametrize("kind", ["EPS", "GIF", "TIFF", "BMP", "PDF", "ICO", "PPM"])
def test_a_picture_of_another_kind_is_named(tmp_path: Path, kind: str) -> None:
    """Some kinds are given to other programs to decode (EPS to Ghostscript)."""
    mode = "L" if kind == "EPS" else "RGB"
    message = refuse_zip(packed([*MEMBERS, ("images_background/x/1.png", picture(kind, mode))]), tmp_path)
    assert "images_background/x/1.png does not decode" in message
