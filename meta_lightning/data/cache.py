"""Caches values that take long to compute in the user's cache folder."""

import hashlib
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path

from meta_lightning.console import notify
from meta_lightning.files import is_file, save_whole

# A file consists of these bytes, a checksum, and the value as `torch.save` writes it.
_HEAD = b"meta_lightning cache 1\n"
_CHECKSUM_BYTES = 32

# The values that could not be saved, so that this process makes each of them once.
_unsaved: dict[Path, Any] = {}


def cached(name: str, make: Callable[[], Any]) -> Any:
    """Returns a cached value. The first call makes the value and caches it.

    The file is written atomically, so several processes may call this at the same time. Its checksum covers the name
    and the value. If the file does not match it, the value is made again. If the file can't be written, this process
    keeps the value in memory. Both print a line.

    Args:
        name: A name that determines the value: it contains a checksum of the inputs and every setting.
        make: Returns the value, which consists of tensors, numbers and strings in lists and dicts.
    """
    path = user_cache_path("meta_lightning") / f"{name}.cache"
    if path in _unsaved:
        return _unsaved[path]
    if is_file(path):
        try:
            return _load(path, name)
        except Exception as error:  # which type a damaged file raises depends on its bytes
            problem = str(error) if isinstance(error, (OSError, _DamagedError)) else type(error).__name__
            notify(f"Warning: {path} can't be used ({problem}); its content is made again")
    value = make()
    try:
        save_whole(value, path, head=partial(_head, name))
    except OSError as error:
        notify(f"Warning: nothing is cached, because {path} can't be written ({error.strerror})")
        _unsaved[path] = value
    return value


class _DamagedError(Exception):
    """The bytes of a file are not those that were written."""


def _load(path: Path, name: str) -> Any:
    with path.open("rb") as file:
        head, content = file.read(len(_HEAD) + _CHECKSUM_BYTES), file.read()
    if head != _head(name, content):
        raise _DamagedError("its bytes do not match its checksum")
    return torch.load(io.BytesIO(content), weights_only=True)


def _head(name: str, content: bytes | memoryview) -> bytes:
    checksum = hashlib.sha256(name.encode())
    checksum.update(content)
    return _HEAD + checksum.digest()
