"""Damaged archives, caches, downloads and tables: refused or made anew, never used and never a traceback."""

import functools
import io
import operator
import re
import socket
import subprocess
import sys
import threading
import zipfile

import pytest
import torch
from PIL import Image

from meta_lightning.data import Omniglot
from meta_lightning.data.cache import _head, cached
from meta_lightning.data.download import fetch
from meta_lightning.data.episodes import MetaBatches, keys
from meta_lightning.data.readers.archives import read_pictures
from meta_lightning.data.readers.pictures import PictureReader
from meta_lightning.data.sources import omniglot as source_module
from meta_lightning.data.sources.images import LabelledImages
from meta_lightning.errors import ConfigError
from meta_lightning.types import EpisodeShape


@pytest.mark.parametrize("total", [9, 10])
def test_a_rank_without_a_share_of_the_last_meta_batch_gets_an_empty_one(total):
    ranks = [MetaBatches(lambda drawn: drawn, 4, rank, 4, total=total) for rank in range(4)]
    assert sorted(functools.reduce(operator.iadd, (rank[2].tolist() for rank in ranks), [])) == [*range(8, total)]


def damaged_zip(path, change):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/1.png", bytes(range(256)) * 8)
    whole = bytearray(path.read_bytes())
    change(whole)
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize("damage", ["stream", "method", "encrypted"])
def test_a_zip_that_cannot_be_unpacked_is_refused(tmp_path, damage):
    def change(whole):
        directory = whole.index(b"PK\x01\x02")
        if damage == "stream":
            whole[30 + len("a/1.png")] = 0xFF  # the first byte of the compressed stream: zlib.error
        elif damage == "method":
            whole[directory + 10] = 99  # NotImplementedError
            whole[8] = 99
        else:
            whole[directory + 8] |= 1  # RuntimeError
            whole[6] |= 1

    with pytest.raises(ConfigError, match=r"set\.zip"):
        read_pictures([damaged_zip(tmp_path / "set.zip", change)], PictureReader(6, 1))


def test_a_picture_of_absurd_size_is_named(tmp_path, write_zip):
    file = io.BytesIO()
    Image.new("1", (14000, 14000)).save(file, "PNG")  # 24 kB, and 196 million pixels
    archive = write_zip(tmp_path / "set.zip", {"a/1.png": file.getvalue()})
    with pytest.raises(ConfigError, match=r"set\.zip: a/1\.png"):
        read_pictures([archive], PictureReader(6, 1))


@pytest.mark.parametrize(
    "contents",
    [b"\x80\x02]X", b"\x80\x02h\x00.", b"\x80\x02\x85.", b"\x80\x02K", b"\x80\x02X\x02\x00\x00\x00\xff\xff."],
)
@pytest.mark.parametrize("checked", [False, True])
def test_garbage_that_looks_like_a_pickle_is_made_anew(cache_folder, contents, checked, capsys):
    cache_folder.mkdir(parents=True)
    (cache_folder / "thing.cache").write_bytes(_head("thing", contents) * checked + contents)
    assert cached("thing", lambda: 1) == 1
    assert re.search(r"can't be used \(.+\); its content is made again", capsys.readouterr().out)


def test_a_disk_that_is_really_full_costs_a_warning(cache_folder):
    pytest.importorskip("resource")
    # In a process of its own: the limit holds for every file, the test run's own log too.
    code = """
import resource, torch
from meta_lightning.data.cache import _head, cached
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
assert cached("thing", lambda: torch.zeros(100_000)).shape == (100_000,)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "nothing is cached" in ran.stdout
    assert not [*cache_folder.iterdir()]


def test_a_folder_that_cannot_be_made_is_named(published, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="could not be fetched to"):
        fetch(published.as_uri(), tmp_path / "file" / "folder" / "data.zip", MD5, key="data.download")


MD5 = "0" * 32


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n50\r\nxx", b"garbage\r\n\r\n"]
)
def test_a_server_that_breaks_off_is_named(target, monkeypatch, answer):
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            connection, _ = listening.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ConfigError, match="could not be fetched to"):
            fetch(f"http://127.0.0.1:{listening.getsockname()[1]}/data.zip", target, MD5, key="data.download")
        thread.join()


def test_a_random_split_of_too_few_characters_is_refused(tmp_path, cache_folder, monkeypatch):
    monkeypatch.setattr(
        source_module,
        "read_pictures",
        lambda archives, reader: {
            "images": torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1, 1),
            "names": [*"abcdefg"],
        },
    )
    for archive in ("images_background.zip", "images_evaluation.zip"):
        (tmp_path / archive).write_bytes(b"contents")
    with pytest.raises(ConfigError, match="1623"):
        Omniglot(root=str(tmp_path), split="random").load("train")


def test_pictures_that_are_not_square_are_not_scrambled():
    images = torch.arange(6, dtype=torch.uint8).view(1, 1, 1, 2, 3).expand(4, 4, 1, 2, 3)
    with pytest.raises((ConfigError, ValueError), match="square"):
        LabelledImages(images, [*"abcd"], rotations="per_task").draw(
            keys(0, "train", torch.arange(1)), EpisodeShape(2, 1, 1)
        )


@pytest.fixture
def published(tmp_path):
    (tmp_path / "published").write_bytes(b"contents")
    return tmp_path / "published"


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new" / "data.zip"
