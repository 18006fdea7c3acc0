"""Things that take long to make, kept in the user's cache folder."""

import io
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path


def cached(name: str, make: Callable[[], Any]) -> Any:
    """What ``make`` returned the first time, read back every other time.

    The file is written whole or not at all, so that two processes may race. Where the folder can't be written, the
    value is made anew each time and a warning says so. A file that does not load is made again.

    Args:
        name: Names the content completely: the checksum of what it is made from, and every setting.
        make: Returns tensors, numbers and strings in lists and dicts.

    Returns:
        The value.
    """
    path = user_cache_path("meta_lightning") / f"{name}.pt"
    if path.is_file():
        try:
            return torch.load(path, weights_only=True)
        except Exception:  # a damaged file raises whatever its bytes happen to mean to the unpickler
            warnings.warn(f"{path} does not load; made again", stacklevel=2)
    value = make()
    try:
        _write(value, path)
    except OSError as error:
        warnings.warn(f"nothing is cached, since {path.parent} can't be written ({error.strerror})", stacklevel=2)
    return value


def _write(value: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            # Through memory: on a full disk `torch.save` to a file raises no OSError.
            torch.save(value, buffer := io.BytesIO())
            file.write(buffer.getbuffer())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
