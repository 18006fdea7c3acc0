"""Files that are written whole or not at all, and work that processes do one at a time."""

import io
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch

if sys.platform != "win32":
    import fcntl

# Read once, while there is one thread: asking for it means setting it.
_UMASK = os.umask(0o077)
os.umask(_UMASK)

_PART = ".part"
_SECONDS_BETWEEN = 60
_USER = os.getuid() if sys.platform != "win32" else "user"


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
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=_PART)
    try:
        with os.fdopen(handle, "wb") as file:
            with suppress(OSError):
                _lock(file)  # until it is closed, if by `kill -9`: tells `remove_parts` that somebody is writing
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


def remove_parts(folder: Path) -> None:
    """Removes what `save_whole` left more than a minute ago, when it was killed; what is being written stays.

    On Windows, where nobody can delete a file that is open, all of it stays.
    """
    for part in folder.glob(f".*-*{_PART}"):
        with suppress(OSError), part.open("rb+") as file:  # gone, another user's, or locked
            _lock(file, wait=False)
            # A newer one may be so new that its writer is yet to lock it, or is about to rename it.
            if time.time() - part.stat().st_mtime > _SECONDS_BETWEEN:
                part.unlink()


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Lets one process of a user in on each machine; if it dies in there, the next one comes in.

    Args:
        name: Of what they do, as a part of a file name.
    """
    with ExitStack() as until_done:
        with suppress(OSError):  # no such folder, or one without locks: then each does it for itself
            file = Path(tempfile.gettempdir()) / f"meta_lightning-{_USER}-{name}.lock"
            _lock(until_done.enter_context(file.open("a")))
        yield


def _lock(file: IO[Any], *, wait: bool = True) -> None:
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
