"""Files from the internet, checked before they count as there."""

import hashlib
import os
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

from torch.hub import download_url_to_file

from meta_lightning.errors import ConfigError


def fetch(url: str, path: Path, md5: str, *, key: str) -> None:
    """Makes sure that ``path`` holds the file with this MD5, downloading it if it is absent.

    Args:
        url: Where it comes from.
        path: Where it goes; written only once the download is whole and right.
        md5: The expected checksum.
        key: The setting that switches the download off, for messages.

    Raises:
        ConfigError: If the download fails, or the file is another one; a file that was there before stays as it is.
    """
    if path.is_file():
        _check(path, md5, f"replace the file, or set {key} to false to read it as it is")
        return
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")  # processes may race
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
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        raise ConfigError(f"{path} has MD5 {found}, expected {md5}: {remedy}")
