"""Downloads files and verifies their checksums."""

import hashlib
import os
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

from torch.hub import download_url_to_file

from meta_lightning.errors import ConfigError


def default_root(name: str) -> Path:
    """The folder of a data set: in the folder that ``META_LIGHTNING_DATA`` names, or else in ``data``.

    Example:
        >>> default_root("omniglot").name
        'omniglot'
    """
    return Path(os.environ.get("META_LIGHTNING_DATA") or "data") / name


def fetch(url: str, path: Path, md5: str, *, key: str) -> None:
    """Downloads a file if it is absent, and verifies its checksum in any case.

    Args:
        url: The address of the file.
        path: The file's place on disk. It is written only after the download is complete and verified.
        md5: The expected MD5 checksum.
        key: The setting that switches the download off; messages name it.

    Raises:
        ConfigError: If the download fails or the checksum differs. A file that existed before is never changed.
    """
    if path.is_file():
        _check(path, md5, f"replace the file, or set {key} to false to read it as it is")
        return
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")  # several processes may download at once
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(url, str(partial))
        _check(partial, md5, f"try again, or place the file yourself and set {key} to false")
        partial.replace(path)
    except (URLError, HTTPException, OSError) as error:
        raise ConfigError(
            f"{url} could not be fetched to {path} ({error}); place it there yourself and set {key} to "
            "false, or name the folder that has it"
        ) from error
    finally:
        if partial.is_file():
            partial.unlink()


def _check(path: Path, md5: str, remedy: str) -> None:
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "md5").hexdigest()
    if checksum != md5:
        raise ConfigError(f"{path} has MD5 {checksum}, expected {md5}: {remedy}")
