"""Caches large tables of bytes in files that are mapped into memory, so that processes share them."""

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from platformdirs import user_cache_path
from torch import Tensor

from meta_lightning.console import notify, progress
from meta_lightning.files import is_file, write_parts

# A file consists of the rows, a JSON list with the note of each row, and this: the number of bytes of the rows and of
# the list, a checksum of all and the name, and the format.
_FOOT = struct.Struct("<QQ32s16s")
_FORMAT = b"meta_lightning 1"

_PIECE = 1 << 24  # bytes that are hashed at once

_unsaved: dict[Path, "Rows"] = {}


class Rows(NamedTuple):
    """A table of rows.

    Attributes:
        data: uint8, ``[rows, *shape]``. It may be mapped from a file, of which every process holds the same copy.
        notes: A text for each row.
    """

    data: Tensor
    notes: list[str]


Parts = Iterable[tuple[np.ndarray, list[str]]]
"""Some rows, uint8 ``[some, *shape]``, with their notes, and the next ones."""


def cached_rows(place: str, name: str, shape: tuple[int, ...], make: Callable[[], Parts]) -> Rows:
    """Returns cached rows. The first call makes and caches them; they need never be in memory all at once.

    As in `cache.cached`, the file is written atomically, a file that does not match its checksum is made again, and if
    the file can't be written the rows are kept in memory. A file of the same place and another name is removed.

    Args:
        place: Identifies where the rows come from.
        name: Determines the rows: a checksum of the inputs and every setting.
        shape: The shape of a row.
        make: Makes the rows, in parts.
    """
    folder = user_cache_path("meta_lightning")
    path = folder / f"{place}-{name}.rows"
    if path in _unsaved:
        return _unsaved[path]
    if is_file(path):
        try:
            return _load(path, shape)
        except (OSError, ValueError, struct.error) as error:
            notify(f"Warning: {path} can't be used ({error}); its content is made again")
    try:
        write_parts(path, lambda: _content(path.name, make()))
        rows = _load(path, shape, verify=False)
    except OSError as error:
        notify(f"Warning: nothing is cached, because {path} can't be written ({error.strerror})")
        rows = _unsaved[path] = _in_memory(make(), shape)
    else:
        for other in folder.glob(f"{place}-*.rows"):
            if other != path:
                with suppress(OSError):
                    other.unlink()
    return rows


def _content(name: str, parts: Parts) -> Iterator[bytes | memoryview]:
    """The parts of a file."""
    digest, size, notes = hashlib.sha256(name.encode()), 0, []
    for rows, texts in parts:
        data = np.ascontiguousarray(rows).data.cast("B")
        digest.update(data)
        size += len(data)
        notes += texts
        yield data
    listed = json.dumps(notes).encode()
    digest.update(listed)
    yield listed
    yield _FOOT.pack(size, len(listed), digest.digest(), _FORMAT)


def _load(path: Path, shape: tuple[int, ...], *, verify: bool = True) -> Rows:
    # The copy is private and made page by page on writing, which nobody does; torch warns of tensors that are
    # read-only.
    whole = np.memmap(path, np.uint8, "c")
    size, listed, checksum, kind = _FOOT.unpack(whole[-_FOOT.size :].tobytes())
    if kind != _FORMAT or size + listed + _FOOT.size != len(whole):
        raise ValueError("it is incomplete, or of another version")
    if verify:
        digest = hashlib.sha256(path.name.encode())
        for start in progress(range(0, size + listed, _PIECE), f"Checking {path.name}"):
            digest.update(whole[start : min(start + _PIECE, size + listed)].data)
        if digest.digest() != checksum:
            raise ValueError("its bytes do not match its checksum")
    notes = json.loads(whole[size : size + listed].tobytes())
    return Rows(torch.from_numpy(whole[:size]).view(len(notes), *shape), notes)


def _in_memory(parts: Parts, shape: tuple[int, ...]) -> Rows:
    rows: list[np.ndarray] = []
    notes: list[str] = []
    for some, texts in parts:
        rows.append(some)
        notes += texts
    data = np.concatenate(rows) if rows else np.empty((0, *shape), np.uint8)
    return Rows(torch.from_numpy(data), notes)
