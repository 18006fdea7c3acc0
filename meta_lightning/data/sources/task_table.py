"""Tasks that are given in a table: each has rows of its own."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from meta_lightning.console import notify, printable
from meta_lightning.data.readers.table import sort_names
from meta_lightning.data.sources.drawing import Streams, assemble, take_rows
from meta_lightning.errors import ConfigError
from meta_lightning.functional import random
from meta_lightning.types import EpisodeShape, Inputs, Task

# A message names at most this many.
_MAX_NAMES = 5

# The one class of the rows of a regression.
_VALUES = ""

TaskRows = Mapping[str, Mapping[str, np.ndarray]]
"""The rows of each task, by the name of the task and of the class; the class of a regression is the empty text."""


class _Members(NamedTuple):
    """The rows of a meta-batch of episodes.

    Attributes:
        tasks: Numbers of tasks, ``[tasks]``.
        cells: Numbers of cells (a class of a task), ``[tasks, ways]``.
        rows: Numbers of rows within their cell, support first, ``[tasks, ways, shots + queries]``.
    """

    tasks: Tensor
    cells: Tensor
    rows: Tensor


class _Usable(NamedTuple):
    """What episodes of one shape are drawn from.

    Attributes:
        tasks: The numbers of the tasks, ``[usable]``.
        cells: The usable cells of each, ``[usable, most]``, filled up with zeros.
        counts: The number of usable cells of each, ``[usable]``.
    """

    tasks: Tensor
    cells: Tensor
    counts: Tensor


class TaskTable:
    """A family of given tasks, such as patients, machines or users. An episode is one task and some of its rows.

    An episode of classification has ``shots`` and ``queries`` rows of each class. The labels are in the order of the
    classes' names, so a class has the same label in all tasks that have the same classes. If most tasks share their
    classes and an episode has all of these, tasks with other classes are left out. Tasks with too few rows are left
    out, too.

    Args:
        x: The inputs of all rows, ``[rows, width]``.
        values: The targets of all rows, ``[rows, 1]``; null for classification.
        tasks: The rows of each task.
        target: The name of the target, for messages.
        shared: The classes that most tasks share, if they do.
        split: The split's name, for messages.

    Example:
        >>> from meta_lightning.data.episodes import keys
        >>> x, tasks = torch.arange(20.0)[:, None], {"Ada": {"": np.arange(12)}, "Alan": {"": np.arange(12, 20)}}
        >>> table = TaskTable(x, 2 * x, tasks, "height")
        >>> task = table.draw(keys(0, "train", torch.arange(3)), EpisodeShape(ways=None, shots=2, queries=5))
        >>> task.support.x.shape, task.query.y.shape
        (torch.Size([3, 2, 1]), torch.Size([3, 5, 1]))
    """

    def __init__(
        self,
        x: Tensor,
        values: Tensor | None,
        tasks: TaskRows,
        target: str,
        shared: Sequence[str] | None = None,
        split: str = "",
    ) -> None:
        self.names = [*tasks]
        self._x = x
        self._values = values
        self._target = target
        self._shared = None if shared is None else [*shared]
        self._split = split
        self._classes = [sort_names([*tasks[name]]) for name in self.names]
        rows = [tasks[name][cls] for name, classes in zip(self.names, self._classes, strict=True) for cls in classes]
        self._rows = torch.from_numpy(np.concatenate(rows)) if rows else torch.empty(0, dtype=torch.int64)
        self._counts = torch.tensor([*map(len, rows)], dtype=torch.int64)
        self._starts = self._counts.cumsum(0) - self._counts
        sizes = torch.tensor([*map(len, self._classes)], dtype=torch.int64)
        self._first_cells: list[int] = (sizes.cumsum(0) - sizes).tolist()
        self._usable_by_need: dict[tuple[int | None, int], _Usable] = {}

    def to(self, device: torch.device) -> None:
        """Moves the rows to a device. Meta-batches are assembled there from then on."""
        self._x = self._x.to(device)
        self._values = None if self._values is None else self._values.to(device)

    def preprocess(self, x: Inputs) -> Inputs:
        """Converts inputs to the default precision."""
        assert isinstance(x, Tensor)
        return x.to(torch.get_default_dtype())

    def check(self, shape: EpisodeShape) -> None:
        """Checks that episodes of this shape can be drawn, and prints once which tasks are left out.

        Raises:
            ConfigError: If ``ways`` does not fit the kind of the tasks, or if no task has enough rows.
        """
        key = (shape.ways, need := shape.shots + shape.queries)
        if self._values is not None and shape.ways is not None:
            raise ConfigError(
                f"data.ways is {shape.ways}, but column {printable(self._target)!r} holds numbers, which tasks "
                "predict; leave data.ways out, or list the column under data.source.categorical if it holds classes"
            )
        if self._values is None:
            self._check_ways(shape)
        checked_before = key in self._usable_by_need
        if not len(self._usable(shape).tasks):
            most = max((self._available(number, shape) for number in range(len(self.names))), default=0)
            of = "" if self._values is not None else f" of each of {shape.ways} classes"
            raise ConfigError(
                f"data.shots + data.queries is {shape.shots} + {shape.queries} = {need}, but a task of split "
                f"{self._split!r} has at most {most} rows{of}; lower data.shots or data.queries"
            )
        if not checked_before:
            self._note_left_out(shape)

    def _check_ways(self, shape: EpisodeShape) -> None:
        most = max(map(len, self._classes), default=0)
        here = f"column {printable(self._target)!r} has at most {most} in a task of split {self._split!r}"
        if self._shared is not None:
            here = f"column {printable(self._target)!r} has {len(self._shared)}: {_listed(self._shared)}"
        if shape.ways is None:
            raise ConfigError(f"data.ways is not set; expected the number of classes of a task; {here}")
        if shape.ways > (most if self._shared is None else len(self._shared)):
            raise ConfigError(f"data.ways is {shape.ways}, but {here}; lower data.ways")

    def _fits(self, number: int, shape: EpisodeShape) -> bool:
        """Whether a task has the classes that episodes of this shape need."""
        if self._shared is not None and shape.ways == len(self._shared):
            return self._classes[number] == self._shared
        return len(self._classes[number]) >= (shape.ways or 1)

    def _available(self, number: int, shape: EpisodeShape) -> int:
        """The number of rows that a task has at least of each of ``ways`` classes; 0 for a task with other classes."""
        cells = self._counts[self._first_cells[number] :][: len(self._classes[number])]
        return int(cells.sort(descending=True).values[(shape.ways or 1) - 1]) if self._fits(number, shape) else 0

    def _note_left_out(self, shape: EpisodeShape) -> None:
        need, numbers = shape.shots + shape.queries, range(len(self.names))
        other = [number for number in numbers if not self._fits(number, shape)]
        few = [number for number in numbers if number not in {*other} and self._available(number, shape) < need]
        of_each = "" if self._values is not None else f" of each of {shape.ways} classes"
        shared = self._shared is not None and shape.ways == len(self._shared)
        self._note(f"fewer than {need} rows{of_each}", {number: self._available(number, shape) for number in few})
        reason = f"other classes than {_listed(self._shared or [])}" if shared else f"fewer than {shape.ways} classes"
        self._note(reason, {number: _listed(self._classes[number]) for number in other})

    def _note(self, reason: str, left: Mapping[int, object]) -> None:
        if not left:
            return
        have, are = ("tasks have", "are") if len(left) > 1 else ("task has", "is")
        names = [f"{printable(self.names[number])} ({what})" for number, what in left.items()][:_MAX_NAMES]
        more = f" and {len(left) - _MAX_NAMES} more" if len(left) > _MAX_NAMES else ""
        notify(
            f"Note: {len(left)} {have} {reason} in split {self._split!r} and {are} left out: {', '.join(names)}{more}"
        )

    def _usable(self, shape: EpisodeShape) -> _Usable:
        key = (shape.ways, need := shape.shots + shape.queries)
        if key not in self._usable_by_need:
            enough = (self._counts >= need).tolist()
            tasks, cells = [], []
            for number, first in enumerate(self._first_cells):
                usable = [cell for cell in range(first, first + len(self._classes[number])) if enough[cell]]
                if len(usable) >= (shape.ways or 1) and self._fits(number, shape):
                    tasks.append(number)
                    cells.append(usable)
            most = max(map(len, cells), default=0)
            self._usable_by_need[key] = _Usable(
                torch.tensor(tasks, dtype=torch.int64),
                torch.tensor([usable + [0] * (most - len(usable)) for usable in cells], dtype=torch.int64),
                torch.tensor([*map(len, cells)], dtype=torch.int64),
            )
        return self._usable_by_need[key]

    def draw(self, keys: Tensor, shape: EpisodeShape) -> Task:
        """Draws tasks with inputs ``[tasks, examples, width]``."""
        return self._build(self._members(keys, shape), shape, keys)

    def _members(self, keys: Tensor, shape: EpisodeShape) -> _Members:
        streams, usable, ways = Streams.of(keys), self._usable(shape), shape.ways or 1
        drawn = random.integers(streams.classes, 1, len(usable.tasks))[:, 0]
        places = random.choose(streams.variants, usable.counts[drawn], ways).sort(dim=1).values
        cells = usable.cells[drawn].gather(1, places)
        cell_keys = random.fold(streams.rows[:, None], torch.arange(ways))
        rows = random.choose(cell_keys, self._counts[cells], shape.shots + shape.queries)
        return _Members(usable.tasks[drawn], cells, rows)

    def _build(self, members: _Members, shape: EpisodeShape, keys: Tensor) -> Task:
        numbers = self._rows[self._starts[members.cells][..., None] + members.rows]

        def taken(tensor: Tensor) -> Tensor:
            return take_rows(tensor, numbers.flatten()).view(*numbers.shape, *tensor.shape[1:])

        if self._values is None:
            y = torch.arange(numbers.shape[1])[None, :, None].expand_as(numbers)
        else:
            y = taken(self._values).to(torch.get_default_dtype())
        return assemble(taken(self._x), y, shape, keys, Streams.of(keys).order)

    def describe(self, keys: Tensor, shape: EpisodeShape) -> list[Any]:
        """Describes each episode by its task, and each class by its name and the numbers of its rows, support first."""
        members = self._members(keys, shape)
        return [
            [self.names[task], *([self._class(task, cell), row] for cell, row in zip(cells, rows, strict=True))]
            for task, cells, rows in zip(*(part.tolist() for part in members), strict=True)
        ]

    def _class(self, task: int, cell: int) -> str:
        return self._classes[task][cell - self._first_cells[task]]

    def rebuild(self, described: list[Any], shape: EpisodeShape, keys: Tensor) -> Task:
        """Rebuilds episodes from the names of their tasks and classes, and the numbers of their rows.

        Raises:
            ConfigError: If the table does not have what a description names.
        """
        return self._build(self._find(described), shape, keys)

    def _find(self, described: list[Any]) -> _Members:
        numbers = {name: number for number, name in enumerate(self.names)}
        try:
            tasks = [numbers[episode[0]] for episode in described]
            cells = [
                [self._first_cells[task] + self._classes[task].index(name) for name, _ in episode[1:]]
                for task, episode in zip(tasks, described, strict=True)
            ]
            found = torch.tensor(cells)
            rows = torch.tensor([[rows for _, rows in episode[1:]] for episode in described])
            wrong = rows[(rows < 0) | (rows >= self._counts[found][..., None])]
            if len(wrong):
                raise IndexError(f"row {wrong[0]}")
        except (KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
            raise ConfigError(
                f"data.episodes names content that split {self._split!r} does not have ({error}); expected a manifest "
                "of this data"
            ) from error
        return _Members(torch.tensor(tasks), found, rows)

    def problem(self, episode: Any, shape: EpisodeShape) -> str | None:
        """Says why a description is not of an episode of this shape; None if it is.

        Raises:
            ConfigError: If the table does not have what the description names.
        """
        self._find([episode])
        need = shape.shots + shape.queries
        names = [name for name, _ in episode[1:]]
        if len({*names}) != (shape.ways or 1) or len(names) != (shape.ways or 1):
            return f"has {len(names)} classes; expected {shape.ways or 1} distinct ones"
        if any(len({*rows}) != need or len(rows) != need for _, rows in episode[1:]):
            return f"has other rows than {need} distinct ones of each class, so support and queries may share one"
        return None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:_MAX_NAMES])) + ", ..." * (len(names) > _MAX_NAMES)
