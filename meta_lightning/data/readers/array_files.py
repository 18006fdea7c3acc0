"""Reads the arrays of npz and npy files by name, without ever loading a pickle."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from meta_lightning.console import first_line, printable
from meta_lightning.errors import ConfigError

_MAX_NAMES = 8  # a message lists at most this many
_PIECE = 1 << 24  # numbers that are looked at at once


class Place(NamedTuple):
    """Where an array is.

    Attributes:
        path: The file.
        entry: The name of the array in an npz file; empty for an npy file.
    """

    path: Path
    entry: str = ""

    def __str__(self) -> str:
        """The file, with the array in it."""
        return f"{self.path}: array {printable(self.entry)!r}" if self.entry else str(self.path)


class ArrayFiles:
    """The arrays of an npz file, of an npy file (its array is named ``x``), or of a folder of such files.

    In a folder, the array of ``y.npy`` is named ``y``, and array ``x`` of ``train.npz`` is named ``x_train``.

    Args:
        path: The file or the folder.
        key: The setting that names it, for messages.

    Raises:
        ConfigError: If there is no such file, or a file is not of this format.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(Path(folder) / "train.npz", x=np.zeros((3, 2)), y=[0, 0, 1])
        ...     np.save(Path(folder) / "x_test.npy", np.ones((3, 2)))
        ...     files = ArrayFiles(Path(folder), "data.source.root")
        ...     files.names, files.read("x_test").shape
        (['x_test', 'x_train', 'y_train'], (3, 2))
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path = path
        self._places: dict[str, Place] = {}
        files = [path]
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix in (".npz", ".npy"))
            if not files:
                raise ConfigError(f"{key}: {path} has no npz or npy file; expected x.npy and y.npy, for example")
        elif path.suffix not in (".npz", ".npy"):
            raise ConfigError(f"{key} is {path}; expected an npz file, or a folder of npy files")
        for file in files:
            if file.suffix == ".npy":
                self._add("x" if file == path else file.stem, Place(file))
                continue
            for name in _entries(file, key):
                self._add(name if file == path else f"{name}_{file.stem}", Place(file, name))

    def _add(self, name: str, place: Place) -> None:
        if name in self._places:
            raise ConfigError(f"{self._places[name]} and {place} are both {printable(name)!r}; remove one of them")
        self._places[name] = place

    @property
    def names(self) -> list[str]:
        """The names of the arrays, sorted."""
        return sorted(self._places)

    def __contains__(self, name: str) -> bool:
        """Whether there is an array of this name."""
        return name in self._places

    def listed(self) -> str:
        """The names of the arrays, for messages."""
        names = [printable(name) for name in self.names]
        return ", ".join(names[:_MAX_NAMES]) + ", ..." * (len(names) > _MAX_NAMES) or "no arrays"

    def place(self, name: str) -> Place:
        """Where an array is.

        Raises:
            ConfigError: Lists the arrays there are.
        """
        if name not in self._places:
            raise ConfigError(f"{self.path} has no array {printable(name)!r}; it has {self.listed()}")
        return self._places[name]

    def read(self, name: str) -> np.ndarray:
        """Reads an array. That of an npy file is mapped into memory, and pages of it are read when they are used.

        Raises:
            ConfigError: If there is no such array, it holds Python objects, or the file is broken.
        """
        place = self.place(name)
        try:
            if not place.entry:
                # The copy is private and made page by page on writing; torch warns of tensors that are read-only.
                return _array(np.load(place.path, mmap_mode="c", allow_pickle=False))
            # numpy leaves a file open that it can't read.
            with place.path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return _array(file[place.entry])
        except Exception as error:  # which type a damaged file raises depends on its bytes
            if "allow_pickle" in str(error) or "Python objects" in str(error):
                raise ConfigError(
                    f"{place} holds Python objects, which are never loaded, as a pickle can run any code; save it as "
                    "an array of numbers or texts (rows of unequal length: cut or pad them first)"
                ) from error
            raise _broken(place, error) from error


def _array(loaded: np.ndarray) -> np.ndarray:
    if not isinstance(loaded, np.ndarray):
        raise ValueError("no array in it")
    return loaded


def _broken(place: Place | Path, error: Exception) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
    return ConfigError(f"{place} can't be read ({reason}); expected arrays that numpy has saved: save them again")


def _entries(path: Path, key: str) -> list[str]:
    if not path.exists():
        raise ConfigError(f"{key} is {path}; there is no such file")
    try:
        with path.open("rb") as opened:
            file = np.load(opened, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise ValueError("it is an npy file")
            return [*file.files]
    except Exception as error:  # as above
        raise _broken(path, error) from error


def to_tensor(array: np.ndarray, place: Place) -> Tensor:
    """Inputs as a tensor whose first dimension counts examples.

    Args:
        array: Numbers of any type: ``[examples, *shape]``; one number an example may come as ``[examples]``.
        place: Where they are, for messages.

    Returns:
        The same numbers: bytes stay bytes, other integers become int64, and booleans float32.

    Raises:
        ConfigError: If they are no numbers, some are not finite, or there are none.
    """
    if array.dtype.kind not in "fiub":
        raise ConfigError(f"{place} holds {array.dtype}; expected numbers")
    if array.ndim == 0 or array.size == 0:
        raise ConfigError(f"{place} has shape {[*array.shape]}; expected one example or more, [examples, ...]")
    if array.ndim == 1:
        array = array[:, None]
    if array.dtype.kind == "f":
        check_finite(array, place)
        kind: type = np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=").type
    elif array.dtype.kind == "b":
        kind = np.float32
    else:
        kind = np.uint8 if array.dtype == np.uint8 else np.int64
    return torch.from_numpy(np.ascontiguousarray(array, kind))


def check_finite(array: np.ndarray, place: Place) -> None:
    """Refuses floats ``[examples, ...]`` that are not finite.

    Raises:
        ConfigError: Names the first example that holds one.
    """
    step = max(1, _PIECE // max(1, array[0].size))
    wrong: list[int] = []
    for start in range(0, len(array), step):
        piece = array[start : start + step].reshape(len(array[start : start + step]), -1)
        wrong += (np.flatnonzero(~np.isfinite(piece).all(1)) + start).tolist()
    if wrong:
        values = array[wrong[0]].ravel()
        value = values[~np.isfinite(values)][0]
        more = f" (and in {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ConfigError(
            f"{place} has the value {value} in example {wrong[0]}{more}; expected finite numbers: fill them in, or "
            "remove such examples"
        )


def read_classes(files: ArrayFiles, name: str, examples: int, of: str) -> np.ndarray:
    """The classes of examples, ``[examples]``, as integers or texts.

    Args:
        files: The files.
        name: The name of the array of classes, or of other facts about each example.
        examples: The number of examples.
        of: The name of the array of examples.

    Raises:
        ConfigError: If there is not one integer or text for each example.
    """
    array, place = files.read(name), files.place(name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        argmax = f": for one-hot rows, save {name}.argmax(1)" if array.ndim == 2 else ""
        raise ConfigError(f"{place} has shape {[*array.shape]}; expected one value for each example{argmax}")
    if len(array) != examples:
        raise ConfigError(
            f"{place} has {len(array)} values, but {files.place(of)} has {examples} examples; expected as many: save "
            "both from the same rows"
        )
    if array.dtype.kind == "f":
        check_finite(array, place)
        wrong = np.flatnonzero(array % 1)
        if len(wrong):
            raise ConfigError(
                f"{place} has the value {array[wrong[0]]} in example {wrong[0]}; expected classes, as integers or "
                "texts (tasks of regression: use the source Table)"
            )
        return array.astype(np.int64)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "replace")
    if array.dtype.kind not in "iubU":
        raise ConfigError(f"{place} holds {array.dtype}; expected integers or texts")
    if array.dtype.kind == "U" and len(wrong := np.flatnonzero(np.char.strip(array) == "")):
        raise ConfigError(f"{place} has no text in example {wrong[0]}; fill it in, or remove the example")
    return array
