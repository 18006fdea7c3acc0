"""Files that are written whole or not at all."""

import io
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

# Read once, while there is one thread: asking for it means setting it.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


def is_file(path: Path) -> bool:
    """Whether there is a file: also for names that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def save_whole(value: Any, path: Path) -> None:
    """`torch.save` beside the target, then renamed to it: whoever is killed when leaves the old file or the new one.

    Args:
        value: What to save.
        path: Where; its folder is made if it is absent.

    Raises:
        OSError: If it can't be written. What was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, and so on the same file system: only there is a rename one step.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            # Through memory: on a full disk `torch.save` to a file raises no OSError.
            torch.save(value, buffer := io.BytesIO())
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_UMASK)  # a temporary file is for its owner alone
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
