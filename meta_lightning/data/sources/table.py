"""Table: the rows of a user's own CSV or Parquet file."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from meta_lightning.console import printable
from meta_lightning.data.readers.base import recipe
from meta_lightning.data.readers.columns import Columns, Scale
from meta_lightning.data.readers.rows import Rows
from meta_lightning.data.readers.table import TableReader, sort_names
from meta_lightning.data.sources.base import Family, Source
from meta_lightning.data.sources.class_table import ClassTable
from meta_lightning.data.sources.division import divide, read_splits
from meta_lightning.data.sources.task_table import TaskTable
from meta_lightning.errors import ConfigError
from meta_lightning.types import Split


class Table(Source):
    r"""Rows of a CSV or Parquet file, in one of two readings.

    - ``label`` names the column of classes. Tasks are drawn over classes, and each class is in one split.
    - ``task`` names the column of tasks, such as patients, machines or users: the rows of one value are one task, and
      each task is in one split. ``target`` names the column that is predicted: a regression if it holds numbers, else
      a classification.

    Numbers are standardised with the mean and deviation of the training rows, those of ``target``, too. A column of
    texts becomes one number for each text, 1 where it stands and 0 elsewhere.

    Args:
        root: The file. CSV may be separated by commas, semicolons or tabs.
        label: The column of classes.
        task: The column of tasks.
        target: With ``task``, the column to predict.
        features: The columns that the inputs are made of; null for all others.
        categorical: Columns of numbers that stand for categories; for ``target``, for classes.
        split: A column with ``train``, ``val`` or ``test``, or the seed of a drawn split: 64 % of the classes or tasks
            for training, 16 % for validation and 20 % for testing.

    Raises:
        ConfigError: If the keys do not fit together.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "visits.csv"
        ...     lines = [f"patient {row % 9},{row % 7},{row % 2}" for row in range(90)]
        ...     _ = path.write_text("\n".join(["patient,dose,weight", *lines]))
        ...     family = Table(str(path), task="patient", target="weight").load("val")
        >>> family.names
        ['patient 4']
    """

    def __init__(
        self,
        root: str,
        label: str | None = None,
        task: str | None = None,
        target: str | None = None,
        features: list[str] | None = None,
        categorical: list[str] | None = None,
        split: int | str = 0,
    ) -> None:
        if (label is None) == (task is None):
            given = "neither is set" if task is None else "both are set"
            raise ConfigError(
                f"data.source.label and data.source.task: {given}; expected label (a column of classes) or task (a "
                "column of tasks)"
            )
        if (task is None) != (target is None):
            found = "not set" if target is None else f"{printable(target)!r}, but there is no data.source.task"
            raise ConfigError(
                f"data.source.target is {found}; expected the column to predict with task, and none with label"
            )
        if isinstance(split, int) and split < 0:
            raise ConfigError(f"data.source.split is {split}; expected a seed of 0 or more, or the name of a column")
        chosen = None if features is None else tuple(features)
        self._settings = _Settings(Path(root), label, task, target, chosen, tuple(categorical or ()), split)

    def prepare(self) -> None:
        """Reads the file.

        Raises:
            ConfigError: If it can't be read, lacks a column, or holds a value that a column must not have.
        """
        _ = self._content

    def load(self, split: Split) -> Family:
        """The classes or tasks of a split."""
        content, settings = self._content, self._settings
        members = content.splits[split]
        if settings.task is not None:
            tasks = {name: content.rows[name] for name in members}
            return TaskTable(content.x, content.values, tasks, settings.target or "", content.shared, split)
        rows = [content.rows[name][""] for name in members]
        return _LabelledRows(
            content.x, members, [*map(len, rows)], split=split, rows=torch.from_numpy(np.concatenate(rows))
        )

    def fingerprint(self) -> str:
        """A checksum of the inputs, targets and splits."""
        content = self._content
        digest = hashlib.sha256(repr([content.arguments, content.splits, self._settings.task]).encode())
        digest.update(content.x.numpy().data)
        if content.values is not None:
            digest.update(content.values.numpy().data)
        for name in sorted(content.rows):
            for cls, rows in sorted(content.rows[name].items()):
                digest.update(repr([name, cls, len(rows)]).encode())
                digest.update(rows.data)
        return f"table {digest.hexdigest()[:16]}"

    def constants(self) -> dict[str, Any]:
        """How new rows are prepared: see `TableReader`."""
        return {"reader": recipe(TableReader, **self._content.arguments)}

    @cached_property
    def _content(self) -> "_Content":
        # The command line makes a second source where the width of the net follows from the data.
        root = self._settings.root
        try:
            stamp = root.stat()
        except OSError as error:
            raise ConfigError(
                f"data.source.root is {root}, which can't be read ({error.strerror}); expected a CSV or Parquet file"
            ) from error
        return _read(self._settings, (stamp.st_size, stamp.st_mtime_ns, root.absolute()))


class _LabelledRows(ClassTable):
    coarse = True
    noun = "a row"


class _Settings(NamedTuple):
    root: Path
    label: str | None
    task: str | None
    target: str | None
    features: tuple[str, ...] | None
    categorical: tuple[str, ...]
    split: int | str

    @property
    def owner(self) -> str:
        """The column that is divided among the splits."""
        return self.label or self.task or ""

    @property
    def noun(self) -> str:
        return "classes" if self.label else "tasks"


class _Content(NamedTuple):
    """What is made of a file.

    Attributes:
        x: The inputs, float32 ``[rows, width]``.
        values: The standardised targets of a regression, float32 ``[rows, 1]``.
        rows: The rows of each class or task, by its name; those of a task by class. A single class is the empty text.
        splits: The classes or tasks of each split.
        shared: The classes that most tasks of the training share, if they do.
        arguments: The arguments of the reader.
    """

    x: Tensor
    values: Tensor | None
    rows: dict[str, dict[str, np.ndarray]]
    splits: dict[Split, list[str]]
    shared: list[str] | None
    arguments: dict[str, Any]


@lru_cache(maxsize=1)
def _read(settings: _Settings, stamp: object) -> _Content:
    """Reads a file.

    Args:
        settings: The settings.
        stamp: What changes when the file changes.
    """
    table = Rows.read(settings.root)
    features = _features(table, settings)
    owners = table.texts(settings.owner)
    splits = _splits(table, owners, settings)
    train = {*splits["train"]}
    training = np.flatnonzero(np.fromiter((name in train for name in owners), bool, len(owners)))
    columns = Columns.fit(table, features, settings.categorical, training)
    x = columns.apply(table)
    target, scale, values, classes = settings.target or settings.owner, None, None, None
    if settings.target is not None:
        if settings.target in settings.categorical or not table.holds_numbers(settings.target):
            classes = table.texts(settings.target)
        else:
            numbers = table.values(settings.target, "correct it, or list the column under data.source.categorical")
            scale = Scale.of(numbers[training])
            values = torch.from_numpy(scale.apply(numbers)[:, None].astype(np.float32))
    rows = _group(owners, classes)
    shared = None if classes is None else _shared([rows[name] for name in splits["train"]])
    arguments = TableReader.arguments(columns, target, scale, settings.task)
    return _Content(x, values, rows, splits, shared, arguments)


def _features(table: Rows, settings: _Settings) -> list[str]:
    """The columns that inputs are made of, after a check of all columns that settings name."""
    named = {"label": settings.label, "task": settings.task, "target": settings.target}
    if isinstance(settings.split, str):
        named["split"] = settings.split
    used: dict[str, str] = {}
    for key, name in named.items():
        if name is None:
            continue
        table.need(name, f"data.source.{key}")
        if name in used:
            raise ConfigError(
                f"data.source.{used[name]} and data.source.{key} are both {printable(name)!r}; expected two columns"
            )
        used[name] = key
    for key, names in (("features", settings.features or ()), ("categorical", settings.categorical)):
        for name in names:
            table.need(name, f"data.source.{key}")
            if name in used and (key, used[name]) != ("categorical", "target"):
                raise ConfigError(
                    f"data.source.{key} lists {printable(name)!r}, which is data.source.{used[name]}; leave it out"
                )
    if settings.features is not None:
        features = [*dict.fromkeys(settings.features)]
    else:
        features = [name for name in table.columns if name not in used]
        if "split" in features:
            raise ConfigError(
                f"{settings.root} has a column 'split', but data.source.split is {settings.split}; set "
                "data.source.split to split, or list the columns of inputs under data.source.features"
            )
    if not features:
        raise ConfigError(f"{settings.root} has no column for the inputs; it has {', '.join(table.columns)}")
    return features


def _splits(table: Rows, owners: list[str], settings: _Settings) -> dict[Split, list[str]]:
    if isinstance(settings.split, str):
        place = f"{settings.root}: column {printable(settings.split)!r}"
        return read_splits(table.texts(settings.split), owners, place, settings.noun)
    try:
        return divide([*dict.fromkeys(owners)], settings.split, settings.noun)
    except ConfigError as error:
        raise ConfigError(f"{settings.root}: column {printable(settings.owner)!r}: {error}") from error


def _group(owners: Sequence[str], classes: Sequence[str] | None) -> dict[str, dict[str, np.ndarray]]:
    """The rows of each class of each owner."""
    grouped: dict[str, dict[str, list[int]]] = {}
    for row, (owner, cls) in enumerate(zip(owners, classes or [""] * len(owners), strict=True)):
        grouped.setdefault(owner, {}).setdefault(cls, []).append(row)
    return {name: {cls: np.array(rows) for cls, rows in groups.items()} for name, groups in grouped.items()}


def _shared(tasks: Iterable[Mapping[str, Any]]) -> list[str] | None:
    """The classes of more than half of the tasks."""
    sets = Counter(tuple(sort_names([*task])) for task in tasks)
    classes, count = sets.most_common(1)[0]
    return [*classes] if 2 * count > sets.total() else None
