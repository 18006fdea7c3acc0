"""Atomic file writes, and a lock that lets processes do a piece of work one at a time."""

import errno
import io
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch

from meta_lightning.console import notify
from meta_lightning.errors import ConfigError

if sys.platform != "win32":
    import fcntl

# The umask can only be read by setting it, so it is read once, before other threads start.
_UMASK = os.umask(0o077)
os.umask(_UMASK)

_PART_SUFFIX = ".part"
_MIN_AGE = 60  # seconds
_MAX_STEM = 40  # characters of a name that its temporary file repeats
# The time after which a process says what it waits for, and the time between two attempts to get a lock, in seconds.
_PATIENCE, _POLL = 5.0, 0.05
_SUFFIXES = ("", *(f"_{number}" for number in range(2, 1000)))  # of files that changed in the same second
_USER = os.getuid() if sys.platform != "win32" else "user"


def is_file(path: Path) -> bool:
    """Whether a path is a file; False for names that the file system does not allow."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def save_whole(value: Any, path: Path, *, head: Callable[[memoryview], bytes] | None = None) -> None:
    """Saves a value as `torch.save` does, but atomically: a process that is killed leaves the old file or the new one.

    Args:
        value: Anything that `torch.save` accepts.
        path: The file to write; its folder is created if it is absent.
        head: Maps the bytes of the value to bytes that are written before them; None for no such bytes.

    Raises:
        OSError: If the file can't be written. An older file stays as it is.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_whole({"steps": 3}, Path(folder) / "value.pt")
        ...     torch.load(Path(folder) / "value.pt")
        {'steps': 3}
    """

    def content() -> list[bytes | memoryview]:
        # `torch.save` straight to a file raises no OSError on a full disk; writing from memory does.
        torch.save(value, buffer := io.BytesIO())
        return [buffer.getbuffer()] if head is None else [head(buffer.getbuffer()), buffer.getbuffer()]

    write_parts(path, content)


def write_parts(path: Path, parts: Callable[[], Iterable[bytes | memoryview]]) -> None:
    """Writes a large file atomically, part by part.

    Args:
        path: The file to write; its folder is created if it is absent.
        parts: Makes the parts of the content. It is not called if the file can't be made.

    Raises:
        OSError: If the file can't be written. An older file stays as it is.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_parts(Path(folder) / "words", lambda: [b"one ", b"two"])
        ...     (Path(folder) / "words").read_text()
        'one two'
    """
    temporary = Path(_written_beside(path, parts))
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(files: Mapping[Path, str], *, keep_earlier: bool = False) -> None:
    """Writes texts atomically. If one of them can't be written, all older files stay as they are.

    Args:
        files: The text of each file; folders are created if they are absent.
        keep_earlier: Keep older files of another content beside the new ones, under the date of their last change.

    Raises:
        ConfigError: Names the file that can't be written and the reason.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole({Path(folder) / "table.md": "| 1 |"})
        ...     write_whole({Path(folder) / "table.md": "| 2 |"}, keep_earlier=True)
        ...     sorted(file.read_text() for file in Path(folder).iterdir())
        ['| 1 |', '| 2 |']
    """
    contents = {path: text.encode() for path, text in files.items()}
    if keep_earlier:
        older = {path: path.read_bytes() for path in contents if path.is_file()}
        contents |= {_dated(path): content for path, content in older.items() if content != contents[path]}
    temporary: dict[Path, str] = {}
    try:
        for path, content in contents.items():
            with _named(path):
                temporary[path] = _written_beside(path, partial(list, [content]))
        for path in reversed(temporary):  # a file is kept before it is replaced
            with _named(path):
                Path(temporary[path]).replace(path)
    finally:
        for name in temporary.values():
            Path(name).unlink(missing_ok=True)


def _dated(path: Path) -> Path:
    """A free name beside a file, with the date of its last change."""
    date = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(path.stat().st_mtime))
    names = (path.with_name(f"{path.stem[:_MAX_STEM]}_{date}{suffix}{path.suffix}") for suffix in _SUFFIXES)
    return next(name for name in names if not name.exists())


def check_writable(paths: Iterable[Path]) -> None:
    """Refuses files that `write_whole` could not write, before the work whose results they are to hold.

    Args:
        paths: The files. Folders that are absent are not created.

    Raises:
        ConfigError: Names the file that can't be written and the reason.
    """
    for path in paths:
        with _named(path):
            with suppress(FileNotFoundError, NotADirectoryError):
                if stat.S_ISDIR(path.stat().st_mode):  # raises for a name that is too long
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            folder = next(parent for parent in path.absolute().parents if parent.exists())
            with suppress(FileNotFoundError):
                (folder / path.name).stat()  # as above, where the file's own folder is absent
            with tempfile.TemporaryFile(dir=folder):
                pass


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns an error of the file system into one for the user that names the file."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{path} can't be written ({error.strerror or error}); an older file is as it was: make room there or "
            "allow writing, or choose another place or name"
        ) from error


def _written_beside(path: Path, content: Callable[[], Iterable[bytes | memoryview]]) -> str:
    """Writes a temporary file, to be renamed to its neighbour ``path``; no file is left if that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A rename is atomic only within one file system, hence the same folder. File systems limit the length of names.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:_MAX_STEM]}-", suffix=_PART_SUFFIX)
    try:
        with os.fdopen(handle, "wb") as file:
            with suppress(OSError):
                # Tells `remove_parts` that this file is being written. Even `kill -9` releases the lock.
                _lock(file)
            for part in content():
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_UMASK)  # `mkstemp` lets only the owner read
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return temporary


def remove_parts(folder: Path) -> None:
    """Removes temporary files that killed calls of `save_whole` left behind more than a minute ago.

    Files that are still being written stay. On Windows, where an open file can't be deleted, all of them stay.
    """
    for part in folder.glob(f".*-*{_PART_SUFFIX}"):
        with suppress(OSError), part.open("rb+") as file:  # the file is gone, locked, or another user's
            _lock(file, wait=False)
            # The writer of a newer file may not have locked it yet, or may be about to rename it.
            if time.time() - part.stat().st_mtime > _MIN_AGE:
                part.unlink()


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Holds a lock that one process per user and machine can have; the lock of a process that dies is released.

    A process that waits for more than five seconds prints once what it waits for.

    Args:
        name: Identifies the work; becomes part of a file name.
    """
    with ExitStack() as stack:
        with suppress(OSError):  # without a folder that supports locks, processes do not wait for each other
            path = Path(tempfile.gettempdir()) / f"meta_lightning-{_USER}-{name}.lock"
            _wait_for_lock(stack.enter_context(path.open("a")), path)
        yield


def _wait_for_lock(file: IO[Any], path: Path) -> None:
    speak_at: float | None = time.monotonic() + _PATIENCE
    while True:
        try:
            _lock(file, wait=False)
        except BlockingIOError:
            if speak_at is not None and time.monotonic() > speak_at:
                notify(f"Waiting for another process, which has locked {path}")
                speak_at = None
            time.sleep(_POLL)
        else:
            return


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Holds a lock that only one process can have, without waiting for it.

    Args:
        path: The file of the lock. It stays, since a lock on a deleted file locks nothing.

    Raises:
        BlockingIOError: If another process holds the lock.
    """
    with ExitStack() as stack:
        try:
            _lock(stack.enter_context(path.open("a")), wait=False)
        except BlockingIOError:
            raise
        except OSError:  # the file system supports no locks
            pass
        yield


def _lock(file: IO[Any], *, wait: bool = True) -> None:
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
