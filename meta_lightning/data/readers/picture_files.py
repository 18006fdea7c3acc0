"""Lists the pictures of a folder or a zip, and reads them."""

import os
import unicodedata
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from meta_lightning.console import notify, printable
from meta_lightning.errors import ConfigError
from meta_lightning.types import SPLITS

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""The endings, in lower case, of the files that are taken for pictures."""

MAX_BYTES = 1 << 28
"""The largest file that is read: about that of the largest picture without compression."""

# What systems and file managers leave in folders and zips; so are hidden files and folders.
_LITTER = {"__macosx", "thumbs.db", "desktop.ini", "@eadir"}

# A class lies below at most a few folders. The limit ends loops of links.
_MAX_DEPTH = 8

LAYOUT = "train, val and test with a folder of pictures for each class, or one folder for each class"


class PictureFile(NamedTuple):
    """A file in a folder or a zip.

    Attributes:
        path: Its path below the root, with ``/``.
        stamp: What changes when the file changes: its size, and its time or checksum.
    """

    path: str
    stamp: str


class PictureFiles(NamedTuple):
    """The pictures of a folder or a zip, sorted by path.

    Attributes:
        root: The folder or the zip.
        files: The pictures.
        key: The setting that names the root, for messages.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "cat_0.png").write_bytes(b"...")
        ...     [file.path for file in PictureFiles.of(Path(folder)).files]
        ['cat_0.png']
    """

    root: Path
    files: list[PictureFile]
    key: str

    @classmethod
    def of(cls, root: Path, key: str = "data.source.root") -> "PictureFiles":
        """Lists a folder or a zip. Hidden files are left out, and so are files that are no pictures, with a note.

        Raises:
            ConfigError: If the root is missing, unreadable, or has no pictures; if a zip is broken, or holds a name
                that leads out of it.
        """
        if root.is_dir():
            found = _walk(root, key)
        elif root.suffix.lower() in (".csv", ".tsv", ".npz", ".npy", ".parquet") and root.is_file():
            raise ConfigError(f"{key}: {root} holds no pictures; expected a folder or a zip with {LAYOUT}")
        elif root.is_file():
            found = _zip_entries(root, key)
        else:
            raise ConfigError(f"{key}: there is no {root}; expected a folder or a zip with {LAYOUT}")
        pictures: list[PictureFile] = []
        others: list[PictureFile] = []
        for file in found:
            parts = file.path.split("/")
            if not any(part.startswith(".") or part.lower() in _LITTER for part in parts):
                (pictures if file.path.lower().endswith(SUFFIXES) else others).append(file)
        if not pictures:
            raise ConfigError(
                f"{key}: {root} holds no pictures ({', '.join(SUFFIXES)}) among its {len(others)} files; "
                f"expected {LAYOUT}"
            )
        if others:
            name = printable(min(others).path)
            notify(f"Note: {len(others)} files in {root} are no pictures and are left out, the first {name}")
        return cls(root, sorted(pictures), key)

    def read(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            ConfigError: If it can't be read, or is too large.
        """
        return read_file(self.root / path) if self.root.is_dir() else _read_entry(self.root, path, os.getpid())

    def label(self, path: str) -> str:
        """The name of a file for messages."""
        return str(self.root / path) if self.root.is_dir() else f"{self.root}: {path}"

    def by_class(self) -> dict[str, dict[str, list[PictureFile]]]:
        """Groups the pictures by split and class; a folder around all others is ignored.

        Returns:
            The files of each class, by the name of the split; the split is empty where there are class folders alone.

        Raises:
            ConfigError: If a picture lies in no class folder, or deeper than in one, or beside the splits.
        """
        depth = self._depth_of_wrapper()
        paths = [(file.path.split("/")[depth:], file) for file in self.files]
        # A class may be called `train`, too, so the depth tells.
        split = any(len(parts) > 2 and parts[0] in SPLITS for parts, _ in paths)
        groups: dict[str, dict[str, list[PictureFile]]] = {}
        for parts, file in paths:
            if split and parts[0] not in SPLITS:
                raise self._misplaced(file, f"does not lie in {', '.join(SPLITS)} although others do")
            if len(parts) != 2 + split:
                fault = "lies in no class folder" if len(parts) < 2 + split else "lies in a folder of a class folder"
                raise self._misplaced(file, fault)
            name = unicodedata.normalize("NFC", parts[-2])  # some systems store accents apart
            groups.setdefault(parts[0] if split else "", {}).setdefault(name, []).append(file)
        return groups

    def classes(self) -> dict[str, list[PictureFile]]:
        """Groups the pictures by class. A class may lie in several splits' folders, which have no meaning here.

        Raises:
            ConfigError: As `by_class` does.
        """
        classes: dict[str, list[PictureFile]] = {}
        for members in self.by_class().values():
            for name, files in members.items():
                classes.setdefault(name, []).extend(files)
        return classes

    def _depth_of_wrapper(self) -> int:
        """The number of folders that all pictures share, above those of splits or classes."""
        paths = [PurePosixPath(file.path).parts for file in self.files]
        depth = 0
        while len({parts[depth] for parts in paths}) == 1:
            if paths[0][depth] in SPLITS or min(map(len, paths)) < depth + 3:
                break
            depth += 1
        return depth

    def _misplaced(self, file: PictureFile, fault: str) -> ConfigError:
        return ConfigError(
            f"{self.key}: {printable(self.label(file.path))} {fault}; expected {LAYOUT}: move it, or remove it"
        )


def read_file(path: Path) -> bytes:
    """The content of a file of at most `MAX_BYTES`.

    Raises:
        ConfigError: If the file is larger or can't be read.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise _too_large(str(path), size)
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} can't be read ({error.strerror or error}); allow reading, or remove it") from error


def check_names(archive: Path, names: list[str]) -> None:
    """Refuses names that lead out of an archive and names that occur twice.

    Raises:
        ConfigError: Names the archive and the first such name.
    """
    known = set()
    for name in names:
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or not parts[0] or ":" in parts[0] or not name.isprintable():
            text = name if name.isprintable() else repr(name)
            raise ConfigError(f"{archive}: {text} is not a path inside the archive; get the archive again")
        if name in known:
            raise ConfigError(f"{archive}: {name} occurs more than once; get the archive again")
        known.add(name)


def _walk(root: Path, key: str) -> list[PictureFile]:
    def entries(folder: Path, prefix: str, depth: int) -> Iterator[PictureFile]:
        with os.scandir(folder) as listing:
            for entry in listing:
                path = f"{prefix}{entry.name}"
                if not path.isascii() and path != path.encode(errors="replace").decode():
                    raise ConfigError(f"{key}: {path!a} in {root} is not valid UTF-8; rename it")
                if entry.is_dir():
                    if depth < _MAX_DEPTH and not entry.name.startswith("."):
                        yield from entries(folder / entry.name, f"{path}/", depth + 1)
                elif entry.is_file():
                    status = entry.stat()
                    yield PictureFile(path, f"{status.st_size} {status.st_mtime_ns}")

    try:
        return [*entries(root, "", 1)]
    except OSError as error:
        name = error.filename or root
        raise ConfigError(f"{key}: {name} can't be read ({error.strerror}); allow reading it, or remove it") from error


def _zip_entries(archive: Path, key: str) -> list[PictureFile]:
    try:
        with zipfile.ZipFile(archive) as file:
            entries = [entry for entry in file.infolist() if not entry.is_dir()]
    except Exception as error:  # which type a damaged archive raises depends on its bytes
        raise ConfigError(
            f"{key}: {archive} is broken ({error}); expected a folder or a whole zip archive: get it again"
        ) from error
    check_names(archive, [entry.filename for entry in entries])
    return [PictureFile(entry.filename, f"{entry.file_size} {entry.CRC}") for entry in entries]


@lru_cache(maxsize=4)
def _opened(archive: Path, process: int) -> zipfile.ZipFile:
    """An opened zip of this process. Processes that share one would move each other's position."""
    return zipfile.ZipFile(archive)


def _read_entry(archive: Path, path: str, process: int) -> bytes:
    try:
        file = _opened(archive, process)
        if (size := file.getinfo(path).file_size) > MAX_BYTES:
            raise _too_large(f"{archive}: {path}", size)
        return file.read(path)
    except ConfigError:
        raise
    except Exception as error:  # as above
        raise ConfigError(f"{archive}: {printable(path)} can't be read ({error}); get the archive again") from error


def _too_large(name: str, size: int) -> ConfigError:
    return ConfigError(f"{name} declares {size} bytes; expected a picture of at most {MAX_BYTES}: replace or remove it")
