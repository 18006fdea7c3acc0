"""Decodes many pictures in parallel processes."""

import hashlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from meta_lightning.console import progress
from meta_lightning.data.readers.picture_files import PictureFiles
from meta_lightning.data.readers.pictures import PictureReader, quiet
from meta_lightning.errors import ConfigError

# Fewer pictures than this are decoded sooner than processes start. A part of the work has at most as many pictures.
_MIN_PARALLEL = _MAX_PART = 64
_PARTS_PER_PROCESS = 16

_POLL = 1.0  # seconds


class Decoded(NamedTuple):
    """Some decoded pictures.

    Attributes:
        pixels: uint8, ``[pictures, channels, size, size]``.
        checksums: Two checksums of each picture, of the bytes that were decoded and of the pixels.
    """

    pixels: np.ndarray
    checksums: list[str]


class Decodable(Protocol):
    """Numbered pictures. Processes get a copy."""

    def __len__(self) -> int:
        """The number of pictures."""

    def decode(self, number: int, reader: PictureReader) -> tuple[np.ndarray, str]:
        """The pixels of a picture, uint8 ``[channels, size, size]``, and a checksum of the bytes that were decoded."""


class DecodableFiles:
    """Files of a folder or a zip.

    Args:
        pictures: The folder or the zip.
        paths: The files, in the order of their numbers.
    """

    def __init__(self, pictures: PictureFiles, paths: list[str]) -> None:
        self._pictures = pictures._replace(files=[])  # whose stamps nobody needs here
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def decode(self, number: int, reader: PictureReader) -> tuple[np.ndarray, str]:
        """Reads and decodes a file."""
        path = self._paths[number]
        data = self._pictures.read(path)
        return reader.decode_bytes(data, self._pictures.label(path)), checksum(data)


def checksum(data: bytes | memoryview) -> str:
    """A checksum of 64 bits, which equal contents share and others do not by chance."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def decode_all(pictures: Decodable, reader: PictureReader, name: str) -> Iterator[Decoded]:
    """Decodes pictures in their order, on all CPUs, with a progress bar.

    Args:
        pictures: The pictures.
        reader: What decodes them.
        name: What the progress bar says is decoded.

    Yields:
        Parts of the pictures.

    Raises:
        ConfigError: Names the first picture that does not decode.
    """
    processes = _cpus()
    size = min(_MAX_PART, max(1, len(pictures) // (processes * _PARTS_PER_PROCESS)))
    parts = [range(start, min(start + size, len(pictures))) for start in range(0, len(pictures), size)]
    total, description = len(parts), f"Decoding {name}"
    if processes == 1 or len(pictures) < _MIN_PARALLEL:
        with quiet():
            yield from progress(map(partial(_decode, pictures, reader), parts), description, total)
        return
    executor, decode = _executor(processes, pictures, reader)
    try:
        # All work is handed out, and so all processes are started, before the progress bar starts its thread.
        yield from progress(executor.map(decode, parts), description, total)
    except BrokenProcessPool as error:
        raise ConfigError(
            f"a process that was decoding {name} was ended from outside, perhaps because memory ran out; free memory "
            "and start again"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _decode(pictures: Decodable, reader: PictureReader, numbers: Iterable[int]) -> Decoded:
    decoded = [pictures.decode(number, reader) for number in numbers]
    pixels = np.stack([pixels for pixels, _ in decoded])
    checksums = [f"{before} {checksum(row.data)}" for row, (_, before) in zip(pixels, decoded, strict=True)]
    return Decoded(pixels, checksums)


def _cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _executor(count: int, pictures: Decodable, reader: PictureReader) -> tuple[Executor, Callable[[range], Decoded]]:
    """Processes or threads, and the function that they run."""
    # A new process of another system would import the user's script again, which may lack `if __name__ == "__main__"`.
    # Pillow's decoders release the interpreter, so threads there are of use, too.
    if sys.platform != "linux" or multiprocessing.current_process().daemon:
        return ThreadPoolExecutor(count), partial(_decode, pictures, reader)
    context = multiprocessing.get_context("fork")
    arguments = (pictures, reader, os.getpid())
    with warnings.catch_warnings():
        # Python 3.12 warns that a lock which another thread holds stays locked in a fork. These decode and do no more.
        warnings.simplefilter("ignore", DeprecationWarning)
        return ProcessPoolExecutor(count, context, _start, arguments), _decode_here


_here: partial[Decoded]  # of a process that decodes


def _start(pictures: Decodable, reader: PictureReader, parent: int) -> None:
    """Prepares a process that decodes."""
    global _here
    _here = partial(_decode, pictures, reader)
    warnings.simplefilter("ignore")  # see `quiet`
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its processes
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process when its parent is gone: after `kill -9` nobody else would."""
    while os.getppid() == parent:
        time.sleep(_POLL)
    os._exit(1)


def _decode_here(numbers: range) -> Decoded:
    return _here(numbers)
