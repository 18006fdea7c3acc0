"""Downloads, from this machine's own disk and a server of the test's own."""

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from meta_lightning.data.download import fetch
from meta_lightning.errors import ConfigError

CONTENTS = b"whole and right" * 1000
MD5 = hashlib.md5(CONTENTS).hexdigest()
WRONG = "0" * 32


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and prints nothing."""

    def log_message(self, *args):
        pass


@pytest.fixture
def published(tmp_path):
    """The file that is offered for download."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "data.zip").write_bytes(CONTENTS)
    return folder / "data.zip"


@pytest.fixture
def address(published, monkeypatch):
    """A server on this machine, with no proxy between."""
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=published.parent)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path):
    """Where the file goes: in a folder that is not there yet."""
    return tmp_path / "new" / "folder" / "data.zip"


def left(target):
    """What lies in the target's folder."""
    return [path.name for path in target.parent.iterdir()] if target.parent.exists() else []


def test_the_right_file_lands(published, target):
    fetch(published.as_uri(), target, MD5, key="data.download")
    assert target.read_bytes() == CONTENTS
    assert left(target) == ["data.zip"]


def test_the_right_file_lands_over_http(address, target):
    fetch(f"{address}/data.zip", target, MD5, key="data.download")
    assert target.read_bytes() == CONTENTS


def test_a_wrong_file_does_not_stay(published, target):
    text = rf"data\.zip.* has MD5 {MD5}, expected {WRONG}: try again, or place the file yourself and set data\.download"
    with pytest.raises(ConfigError, match=text):
        fetch(published.as_uri(), target, WRONG, key="data.download")
    assert left(target) == []


def test_the_right_file_is_not_fetched_again(tmp_path, target):
    target.parent.mkdir(parents=True)
    target.write_bytes(CONTENTS)
    fetch((tmp_path / "nowhere").as_uri(), target, MD5, key="data.download")
    assert target.read_bytes() == CONTENTS


def test_a_wrong_file_that_was_there_stays_and_is_named(published, target):
    target.parent.mkdir(parents=True)
    target.write_bytes(b"somebody's own")
    with pytest.raises(ConfigError) as refused:
        fetch(published.as_uri(), target, MD5, key="data.download")
    found = hashlib.md5(b"somebody's own").hexdigest()
    assert str(refused.value) == (
        f"{target} has MD5 {found}, expected {MD5}: replace the file, or set data.download to false to read it as it is"
    )
    assert target.read_bytes() == b"somebody's own"
    assert left(target) == ["data.zip"]


def test_a_file_that_is_not_published_is_named(address, target):
    with pytest.raises(ConfigError, match=rf"{address}/absent\.zip could not be fetched to .*data\.zip \(.*404"):
        fetch(f"{address}/absent.zip", target, MD5, key="data.download")
    assert left(target) == []


def test_a_server_that_does_not_answer_is_named(target, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    # Nothing listens on port 1.
    with pytest.raises(ConfigError, match=r"http://127\.0\.0\.1:1/data\.zip could not be fetched .*place it there"):
        fetch("http://127.0.0.1:1/data.zip", target, MD5, key="data.download")
    assert left(target) == []


def test_an_interrupted_download_leaves_nothing(published, target, monkeypatch):
    def interrupted(url, path):
        with open(path, "wb") as file:  # noqa: PTH123 - called with a string
            file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("meta_lightning.data.download.download_url_to_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(published.as_uri(), target, MD5, key="data.download")
    assert left(target) == []
