"""Arrays: a user's own examples in npz or npy files."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from meta_lightning.console import printable
from meta_lightning.data.readers.array_files import ArrayFiles, read_classes, to_tensor
from meta_lightning.data.readers.arrays import ArrayReader, arrange, classes_of, kind_of_numbers
from meta_lightning.data.readers.base import recipe
from meta_lightning.data.sources.base import Family, Source
from meta_lightning.data.sources.class_table import ClassTable
from meta_lightning.data.sources.division import divide, read_split_file, read_splits, split_named
from meta_lightning.errors import ConfigError
from meta_lightning.types import Inputs, Split

Scaling = Literal["auto", "standardise", "none"]

_KEY = "data.source.root"
_PIECE = 1 << 22  # numbers that are summed or hashed at once


class Arrays(Source):
    """Examples of any shape (features, signals, images) with their classes, in npz or npy files.

    ``root`` is an npz file, or a folder of npy and npz files. Their arrays are one of

    - ``x`` and ``y``: examples ``[examples, *shape]``, and an integer or a text for each. The splits of the classes are
      given by an array ``split`` with ``train``, ``val`` or ``test`` for each example, by ``split_file``, or drawn.
    - ``x_train``, ``y_train``, ``x_val``, ``y_val``, ``x_test`` and ``y_test``. In a folder, they may be ``x`` and
      ``y`` in each of ``train.npz``, ``val.npz`` and ``test.npz``.

    Pickles are never loaded. The array of an npy file stays on the disk, and processes share its pages in memory.

    Args:
        root: The file or folder.
        shape: The shape that an example gets, such as ``[1, 28, 28]``; null for the one that it has.
        channels_last: Make the last dimension of an example the first one, as nets want it of images
            ``[examples, height, width, channels]``.
        scaling: ``auto`` divides bytes by 255, and turns other numbers into floats. ``standardise`` gives the training
            examples mean 0 and deviation 1, for each entry of the first dimension of an example: each feature, or each
            channel. ``none`` keeps integers as they are, for nets with embeddings.
        split_file: A YAML or JSON file with lists of class names under ``train``, ``val`` and ``test``.
        split_seed: Seed of a drawn split: 64 % of the classes for training, 16 % for validation and 20 % for testing.

    Raises:
        ConfigError: If a setting is out of range.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     y = np.repeat(np.arange(10), 6)
        ...     np.savez(f"{folder}/signals.npz", x=np.random.rand(60, 1, 100), y=y)
        ...     table = Arrays(f"{folder}/signals.npz").load("train")
        >>> table.names, table.x.shape
        (['0', '3', '5', '6', '7', '8'], torch.Size([60, 1, 100]))
    """

    def __init__(
        self,
        root: str,
        shape: list[int] | None = None,
        channels_last: bool = False,
        scaling: Scaling = "auto",
        split_file: str | None = None,
        split_seed: int = 0,
    ) -> None:
        if shape is not None and (not shape or min(shape) < 1):
            raise ConfigError(f"data.source.shape is {shape}; expected sizes of 1 or more, for example [1, 28, 28]")
        if scaling not in ("auto", "standardise", "none"):
            raise ConfigError(f"data.source.scaling is {scaling!r}; expected auto, standardise or none")
        if split_seed < 0:
            raise ConfigError(f"data.source.split_seed is {split_seed}; expected 0 or more")
        self._root = Path(root)
        self._shape = shape or []
        self._channels_last = channels_last
        self._scaling: Scaling = scaling
        self._split_file = Path(split_file) if split_file else None
        self._split_seed = split_seed

    def prepare(self) -> None:
        """Reads the arrays.

        Raises:
            ConfigError: If they are missing, broken or not what was expected.
        """
        _ = self._arguments

    def load(self, split: Split) -> Family:
        """The classes of a split."""
        part = self._parts[split]
        rows = [part.rows[name] for name in part.names]
        joined = torch.from_numpy(np.concatenate(rows))
        return _Examples(part.x, part.names, [*map(len, rows)], split, joined, ArrayReader(**self._arguments))

    def fingerprint(self) -> str:
        """A checksum of the examples, their preparation, and the classes of each split."""
        digest = hashlib.sha256(repr([*self._arguments.values()]).encode())
        for part in self._parts.values():
            for name in part.names:
                digest.update(f"{name!r} {len(part.rows[name])}".encode())
                for piece in _pieces(part.x, part.rows[name]):
                    digest.update(np.ascontiguousarray(piece.numpy()).data)
        return f"arrays {digest.hexdigest()[:16]}"

    def constants(self) -> dict[str, Any]:
        """How new examples are prepared: see `ArrayReader`."""
        return {"reader": recipe(ArrayReader, **self._arguments)}

    @cached_property
    def _parts(self) -> dict[Split, "_Part"]:
        files = ArrayFiles(self._root, _KEY)
        if "x" in files and "y" in files:
            whole = self._read(files, "x", "y")
            splits = self._divide(files, whole)
            return {split: whole._replace(names=[*splits[split]]) for split in splits}
        names = {split: name for name in files.names if (split := _split_of(name)) is not None}
        if len(names) < 3:
            raise ConfigError(
                f"{_KEY}: {self._root} has {files.listed()}; expected x and y, or x_train, y_train, x_val, y_val, "
                "x_test and y_test"
            )
        if self._split_file:
            raise ConfigError(
                f"data.source.split_file is {self._split_file}, but {self._root} is split already into "
                f"{', '.join(sorted(names.values()))}; leave split_file out, or join the arrays into x and y"
            )
        order: tuple[Split, ...] = ("train", "val", "test")
        parts = {split: self._read(files, names[split], f"y{names[split][1:]}") for split in order}
        self._check_apart(parts)
        return parts

    def _read(self, files: ArrayFiles, x: str, y: str) -> "_Part":
        place = files.place(x)
        examples = arrange(to_tensor(files.read(x), place), place, self._shape, self._channels_last)
        names, numbers = classes_of(read_classes(files, y, len(examples), x))
        ends = np.bincount(numbers, minlength=len(names)).cumsum()[:-1]
        rows = np.split(np.argsort(numbers, kind="stable"), ends)
        return _Part(examples, names, dict(zip(names, rows, strict=True)))

    def _divide(self, files: ArrayFiles, whole: "_Part") -> Mapping[Split, Sequence[str]]:
        if "split" in files:
            if self._split_file:
                raise ConfigError(
                    f"data.source.split_file is {self._split_file}, but {self._root} has an array 'split', too; remove "
                    "one of them"
                )
            splits = read_classes(files, "split", len(whole.x), "x")
            classes = np.empty(len(whole.x), object)
            for name in whole.names:
                classes[whole.rows[name]] = name
            return read_splits([*map(str, splits)], classes.tolist(), str(files.place("split")), "classes")
        if self._split_file:
            return read_split_file(self._split_file, whole.names, self._root)
        try:
            return divide(whole.names, self._split_seed)
        except ConfigError as error:
            raise ConfigError(f"{_KEY} {self._root}: {error}") from error

    def _check_apart(self, parts: Mapping[Split, "_Part"]) -> None:
        owners: dict[str, Split] = {}
        shape = parts["train"].x.shape[1:]
        for split, part in parts.items():
            if part.x.shape[1:] != shape or part.x.dtype != parts["train"].x.dtype:
                raise ConfigError(
                    f"{_KEY}: {self._root} has {parts['train'].described()} in 'train' and {part.described()} in "
                    f"{split!r}; expected the same"
                )
            for name in part.names:
                if owners.setdefault(name, split) != split:
                    raise ConfigError(
                        f"{_KEY}: class {printable(name)!r} of {self._root} is in {owners[name]!r} and in {split!r}; "
                        "expected each class in one split, since a test needs classes that are new: join the arrays "
                        "into x and y, which are split by class"
                    )

    @cached_property
    def _arguments(self) -> dict[str, Any]:
        """The arguments of the reader."""
        train = self._parts["train"]
        kind = kind_of_numbers(train.x)
        means, deviations = ([0.0], [255.0]) if kind == "bytes" and self._scaling == "auto" else ([], [])
        if self._scaling == "standardise":
            means, deviations = _statistics(train)
        return {
            "shape": [*train.x.shape[1:]],
            "kind": kind,
            "means": means,
            "deviations": deviations,
            "channels_last": self._channels_last,
            "reshaped": bool(self._shape),
            "as_integers": self._scaling == "none" and kind != "floats",
        }


class _Part(NamedTuple):
    """Examples, the names of the classes that are used, and the rows of each class."""

    x: Tensor
    names: list[str]
    rows: dict[str, np.ndarray]

    def described(self) -> str:
        return f"{kind_of_numbers(self.x)} of shape {[*self.x.shape[1:]]}"


class _Examples(ClassTable):
    """A table whose examples are prepared as the reader prepares new ones."""

    def __init__(
        self, x: Tensor, names: list[str], counts: list[int], split: str, rows: Tensor, reader: ArrayReader
    ) -> None:
        super().__init__(x, names, counts, split, rows)
        self._reader = reader

    def preprocess(self, x: Inputs) -> Inputs:
        """Scales the examples."""
        assert isinstance(x, Tensor)
        return self._reader.prepare(x)


def _split_of(name: str) -> Split | None:
    """The split of an array of examples, such as ``x_train``."""
    return split_named(name[2:]) if name.startswith("x_") else None


def _pieces(x: Tensor, rows: np.ndarray) -> Iterator[Tensor]:
    """Some examples, a few at a time."""
    step = max(1, _PIECE // x[0].numel())
    for start in range(0, len(rows), step):
        yield x[torch.from_numpy(rows[start : start + step])]


def _statistics(part: _Part) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each entry of the first dimension of examples; equal numbers have deviation 1."""
    rows = np.concatenate([part.rows[name] for name in part.names])
    others = [0, *range(2, part.x.ndim)]
    numbers = len(rows) * part.x[0, 0].numel()
    mean = sum(piece.double().sum(others) for piece in _pieces(part.x, rows)) / numbers
    assert isinstance(mean, Tensor)
    column = mean.view(-1, *[1] * (part.x.ndim - 2))
    square = sum((piece.double() - column).square().sum(others) for piece in _pieces(part.x, rows)) / numbers
    deviation = torch.as_tensor(square).sqrt()
    return mean.tolist(), torch.where(deviation > 1e-12 * mean.abs(), deviation, 1.0).tolist()
