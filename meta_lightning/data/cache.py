"""Things that take long to make, kept in the user's cache folder."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from platformdirs import user_cache_path

from meta_lightning.files import save_whole


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
        save_whole(value, path)
    except OSError as error:
        warnings.warn(f"nothing is cached, since {path.parent} can't be written ({error.strerror})", stacklevel=2)
    return value
