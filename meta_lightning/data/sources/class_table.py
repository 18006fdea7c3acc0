"""Classification tasks from a table of labelled examples."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from meta_lightning.console import notify, printable
from meta_lightning.data.sources.drawing import Streams, assemble, take_rows
from meta_lightning.errors import ConfigError
from meta_lightning.functional import random
from meta_lightning.types import EpisodeShape, Inputs, Task

# A message about classes that are left out names at most this many.
_MAX_NAMES = 5


class Members(NamedTuple):
    """The classes and examples of a meta-batch of episodes.

    Attributes:
        classes: Numbers of classes, ``[tasks, ways]``; class ``i`` of an episode has label ``i``.
        variants: Number of each class's variant, ``[tasks, ways]``.
        rows: Numbers of examples within their class, support first, ``[tasks, ways, shots + queries]``.
    """

    classes: Tensor
    variants: Tensor
    rows: Tensor


class ClassTable:
    """N-way K-shot tasks from labelled examples of any shape and type. Classes may differ in size.

    An episode draws its classes, and the examples of each class, without replacement, so support and query set are
    disjoint. Labels follow the order of the draw, so the label of a class differs between episodes. Classes with too
    few examples for the shape of an episode are left out.

    Args:
        x: The examples, ``[classes, examples, *shape]``; with ``counts``, ``[all examples, *shape]``, class by class. A
            dict of such tensors for inputs of several parts.
        names: The names of the classes.
        counts: The number of examples of each class, if they differ.
        split: The split's name, for messages.
        rows: With ``counts``, the rows of ``x`` that the examples are, class by class; null for all rows in order. So
            the tables of several splits can share the memory of one ``x``.

    Example:
        >>> features = torch.randn(10, 7, 16)  # 10 classes of 7 examples
        >>> table = ClassTable(features, [f"class {number}" for number in range(10)])
        >>> from meta_lightning.data.episodes import keys
        >>> task = table.draw(keys(0, "train", torch.arange(4)), EpisodeShape(ways=5, shots=1, queries=2))
        >>> task.support.x.shape, task.query.y.shape
        (torch.Size([4, 5, 16]), torch.Size([4, 10]))
    """

    variants = 1
    """The number of classes that are made of each stored class; see `LabelledImages`."""

    coarse = False
    """Whether two different things may well be equal examples, as two people may be equal rows of a table."""

    noun, variant_noun = "an example", "variant"
    """The words for an example, with its article, and for a variant of a class, for messages."""

    def __init__(
        self,
        x: Inputs,
        names: Sequence[str],
        counts: Sequence[int] | None = None,
        split: str = "",
        rows: Tensor | None = None,
    ) -> None:
        if counts is None:
            counts = [tree_leaves(x)[0].shape[1]] * len(names)
            x = tree_map(lambda tensor: tensor.flatten(0, 1), x)
        self.x = x
        self.names = list(names)
        self.counts = torch.tensor([*counts], dtype=torch.int64)
        lengths = [len(part) for part in tree_leaves(x)] if rows is None else [len(rows)]
        if sizes := {*lengths} - {int(self.counts.sum())}:
            raise ConfigError(
                f"the table of split {split!r} has {sizes.pop()} examples, but its {len(self.names)} names and counts "
                f"make {self.counts.sum()}; expected one name for each class, and the examples of all classes"
            )
        self._starts = self.counts.cumsum(0) - self.counts
        self._shared_rows = rows
        self._equal = len(set(counts)) <= 1
        self._split = split
        self._usable_by_need: dict[int, Tensor] = {}

    def to(self, device: torch.device) -> None:
        """Moves the examples to a device. Meta-batches are assembled there from then on."""
        if self._shared_rows is not None and device.type != "cpu":
            rows, self._shared_rows = self._shared_rows, None  # the rows of other splits stay where they are
            self.x = tree_map(lambda tensor: take_rows(tensor, rows), self.x)
        self.x = tree_map(lambda tensor: tensor.to(device), self.x)

    def preprocess(self, x: Inputs) -> Inputs:
        """Converts floats to the default precision. Integers stay as they are."""
        dtype = torch.get_default_dtype()
        converted: Inputs = tree_map(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, x)
        return converted

    def examples_of(self, number: int) -> Inputs:
        """The examples of one class, ``[examples, *shape]``."""
        start = int(self._starts[number])
        stop = start + int(self.counts[number])
        rows = slice(start, stop) if self._shared_rows is None else self._shared_rows[start:stop]
        examples: Inputs = tree_map(lambda tensor: tensor[rows], self.x)
        return examples

    def check(self, shape: EpisodeShape) -> None:
        """Checks that episodes of this shape can be drawn, and prints once which classes are left out.

        Raises:
            ConfigError: If ``ways`` is missing, or if there are too few classes or examples.
        """
        if shape.ways is None:
            raise ConfigError("data.ways is not set; expected the number of classes of a task, for example 5")
        classes, need = len(self.names) * self.variants, shape.shots + shape.queries
        if shape.ways > classes:
            raise ConfigError(
                f"data.ways is {shape.ways}, but split {self._split!r} has {classes} classes; lower data.ways"
            )
        checked_before = need in self._usable_by_need
        usable = len(self._usable(need))
        if usable * self.variants < shape.ways:
            available = f"a class of split {self._split!r} has {self.counts.max()} examples"
            if not self._equal:
                available = f"only {usable} classes of split {self._split!r} have that many examples"
            raise ConfigError(
                f"data.shots + data.queries is {shape.shots} + {shape.queries} = {need}, but {available}; lower "
                "data.shots or data.queries"
            )
        if usable < len(self.names) and not checked_before:
            notify(f"Note: {self._left_out(need)}")

    def _left_out(self, need: int) -> str:
        small = (self.counts < need).nonzero()[:, 0].tolist()
        names = [f"{printable(self.names[number])} ({self.counts[number]})" for number in small[:_MAX_NAMES]]
        more = f" and {len(small) - _MAX_NAMES} more" if len(small) > _MAX_NAMES else ""
        have, are = ("classes have", "are") if len(small) > 1 else ("class has", "is")
        return (
            f"{len(small)} {have} fewer than {need} examples in split {self._split!r} and {are} left out: "
            f"{', '.join(names)}{more}"
        )

    def _usable(self, need: int) -> Tensor:
        """The numbers of the classes with at least ``need`` examples."""
        if need not in self._usable_by_need:
            self._usable_by_need[need] = (self.counts >= need).nonzero()[:, 0]
        return self._usable_by_need[need]

    def draw(self, keys: Tensor, shape: EpisodeShape) -> Task:
        """Draws tasks with stored inputs ``[tasks, ways * n, *shape]`` and labels ``[tasks, ways * n]``.

        The support set is in the order of the classes. The queries are in a random order, which the key determines. If
        a query's position told its label, a net that reads queries as a sequence would learn the positions. The queries
        of one class keep the order in which `describe` lists them.
        """
        streams = Streams.of(keys)
        return self._build(self._members(streams, shape), shape, keys, streams.order)

    def _members(self, streams: Streams, shape: EpisodeShape) -> Members:
        """Draws the classes and examples of episodes."""
        assert shape.ways is not None
        need = shape.shots + shape.queries
        usable = self._usable(need)
        drawn = random.choose(streams.classes, len(usable) * self.variants, shape.ways)
        classes = usable[drawn // self.variants if self.variants > 1 else drawn]
        class_keys = random.fold(streams.rows[:, None], torch.arange(shape.ways))
        rows = self._choose_rows(class_keys, classes, need)
        return Members(classes, self.draw_variants(streams.variants, drawn), rows)

    def draw_variants(self, keys: Tensor, drawn: Tensor) -> Tensor:
        """The variant of each drawn class, ``[tasks, ways]``.

        Args:
            keys: Random keys, ``[tasks]``.
            drawn: Numbers of the drawn classes, ``[tasks, ways]``, where each stored class has ``variants`` consecutive
                numbers.
        """
        return drawn % self.variants if self.variants > 1 else torch.zeros_like(drawn)

    def _choose_rows(self, keys: Tensor, classes: Tensor, need: int) -> Tensor:
        if self._equal:
            return random.choose(keys, int(self.counts[0]), need)
        return random.choose(keys, self.counts[classes], need)

    def _build(self, members: Members, shape: EpisodeShape, keys: Tensor, order: Tensor) -> Task:
        x = self.take(self._starts[members.classes][..., None] + members.rows, members.variants)
        labels = torch.arange(members.classes.shape[1])[None, :, None].expand_as(members.rows)
        return assemble(x, labels, shape, keys, order)

    def take(self, positions: Tensor, variants: Tensor) -> Inputs:
        """The examples at these positions of the table, in the variants of their classes.

        Args:
            positions: Rows of the table, ``[tasks, ways, examples]``.
            variants: The variant of each class, ``[tasks, ways]``.

        Returns:
            Inputs, ``[tasks, ways, examples, *shape]``.
        """
        rows = positions.flatten()
        if self._shared_rows is not None:
            rows = self._shared_rows[rows]
        taken: Inputs = tree_map(
            lambda tensor: take_rows(tensor, rows).view(*positions.shape, *tensor.shape[1:]), self.x
        )
        return taken

    def describe(self, keys: Tensor, shape: EpisodeShape) -> list[Any]:
        """Describes each class of each task by its name and the numbers of its examples, support first."""
        return [
            [
                self.describe_class(self.names[number], variant, rows)
                for number, variant, rows in zip(*task, strict=True)
            ]
            for task in zip(*(part.tolist() for part in self._members(Streams.of(keys), shape)), strict=True)
        ]

    def describe_class(self, name: str, variant: int, rows: list[int]) -> list[Any]:
        """A manifest's description of a class in an episode."""
        return [name, rows]

    def read_class(self, described: list[Any]) -> tuple[str, int, list[int]]:
        """Name, variant and rows, from what `describe_class` returned."""
        name, rows = described
        return name, 0, rows

    def rebuild(self, described: list[Any], shape: EpisodeShape, keys: Tensor) -> Task:
        """Rebuilds tasks from the names of their classes and the numbers of their examples.

        Raises:
            ConfigError: If the table does not have a class, an example or a variant that a description names.
        """
        return self._build(self._find(described), shape, keys, Streams.of(keys).order)

    def _find(self, described: list[Any]) -> Members:
        """The classes and examples that descriptions name."""
        numbers = {name: number for number, name in enumerate(self.names)}
        try:
            tasks = [[self.read_class(entry) for entry in task] for task in described]
            classes = torch.tensor([[numbers[name] for name, _, _ in task] for task in tasks])
            variants = torch.tensor([[variant for _, variant, _ in task] for task in tasks])
            rows = torch.tensor([[rows for _, _, rows in task] for task in tasks])
            self._check_rows(classes, variants, rows)
        except (KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
            raise ConfigError(
                f"data.episodes names content that split {self._split!r} does not have ({error}); expected a manifest "
                "of this data"
            ) from error
        return Members(classes, variants, rows)

    def problem(self, episode: Any, shape: EpisodeShape) -> str | None:
        """Says why a description is not of an episode of this shape; None if it is.

        Raises:
            ConfigError: If the table does not have what the description names.
        """
        try:
            entries = [self.read_class(entry) for entry in episode]
        except (ValueError, TypeError):
            return "is not a list of classes with the numbers of their examples"
        if problem := _problem(entries, shape, one_variant=self.variants == 1):
            need = shape.shots + shape.queries
            return f"{problem}; expected {shape.ways} distinct classes, each with {need} distinct examples"
        self._find([episode])
        return None

    def _check_rows(self, classes: Tensor, variants: Tensor, rows: Tensor) -> None:
        """Refuses numbers that are out of bounds. On a GPU, indexing with them would end the process."""
        sizes = self.counts[classes][..., None]
        for noun, numbers, bounds in ((self.variant_noun, variants, self.max_variants), ("example", rows, sizes)):
            invalid = numbers[(numbers < 0) | (numbers >= bounds)]
            if len(invalid):
                raise IndexError(f"{noun} {invalid[0]}")

    @property
    def max_variants(self) -> int:
        """The number of variants that a manifest may name."""
        return self.variants


def _problem(entries: list[tuple[Any, Any, Any]], shape: EpisodeShape, *, one_variant: bool) -> str | None:
    """Says what classes and examples do not fit an episode of this shape; None if all do."""
    if len(entries) != shape.ways:
        return f"has {len(entries)} classes"
    classes = set()
    for name, variant, rows in entries:
        numbers = [variant, *rows] if isinstance(rows, list) else [None]
        if type(name) is not str or any(type(number) is not int for number in numbers):  # a bool is an int, too
            return f"has a class {printable([name, variant, rows])}"
        if len(rows) != shape.shots + shape.queries:
            return f"has {len(rows)} examples of class {printable(name)}"
        if len(set(rows)) < len(rows):
            return f"has an example of class {printable(name)} twice, so support and queries may share it"
        classes.add(name if one_variant else (name, variant))
    return "has a class twice" if len(classes) < len(entries) else None
